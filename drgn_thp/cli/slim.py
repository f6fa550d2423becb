# SPDX-License-Identifier: LGPL-2.1-or-later
"""``drgn-thp slim``: a core with only the pages that the analysis reads."""

from __future__ import annotations

import argparse
from typing import Any

from ..escape import printable
from .common import CLEAN, INCOMPLETE, add_block_argument, add_kernel_arguments, block_filter, show_progress


def add(commands: Any) -> None:
    """Add the subcommand to the parser."""
    from ..target import add_target_arguments

    parser = commands.add_parser(
        "slim",
        help="write a small core with only what the other commands read",
        description="Write a small ELF core with only the pages that the other commands read, open it again, and check"
        " that it gives the same answers. It holds no contents of processes and files, but memory of the kernel.",
        epilog="exit status: 0 written and verified, 2 the same of a target that is incomplete, 3 nothing written",
    )
    add_target_arguments(parser)
    output = parser.add_argument_group("output")
    output.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        required=True,
        help="file to write, .elf, .elf.gz or .elf.zst; is there only when it has been verified",
    )
    add_block_argument(output)
    add_kernel_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Write the core, say what it holds, and return the exit status."""
    from ..slim import make_slim
    from ..target import spec_from_arguments

    with show_progress(None) as progress:
        made = make_slim(
            spec_from_arguments(arguments),
            arguments.output,
            " ".join(arguments.block or ()),
            lambda context: block_filter(arguments.block, context),
            arguments.racy_check,
            progress,
        )
    pages = sum(made.pages.values())
    print(f"{printable(made.path)}: Linux {printable(made.release)}, {_megabytes(made.bytes)}; {pages} pages:")
    for kind, number in made.pages.items():
        print(f"{number:>10} {kind}")
    answers = made.answers
    print(
        f"verified: gives the same answers on {answers.folios} folios in {len(answers.blocks)} memory blocks,"
        f" with types from {printable(' and '.join(made.types))}"
    )
    if made.needs_symbols:
        print(f"note: cannot be opened without debugging symbols: {printable(made.needs_symbols)}")
    for what in made.incomplete:
        print(f"INCOMPLETE: {printable(what)}")
    return INCOMPLETE if made.incomplete else CLEAN


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
