# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the subcommands share: exit statuses, options, and where output goes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Callable, TextIO

from ..errors import BadArgument, UnknownLayout

if TYPE_CHECKING:
    from ..blocks import Block
    from ..context import Context
    from ..target import Target

CLEAN, REFUSALS, INCOMPLETE, FAILED = range(4)


def add_block_argument(group: argparse._ArgumentGroup) -> None:
    """Add ``--block``, of which :func:`block_filter` makes sense."""
    group.add_argument(
        "--block",
        action="append",
        metavar="N|START-END",
        help="only this memory block, these blocks (32-35), or those in a range of addresses (0x100000000-0x1ffffffff)",
    )


def add_format_arguments(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add what says where records go, and as what."""
    from ..render import renderers

    output = parser.add_argument_group("output")
    output.add_argument("--format", choices=list(renderers()), default="text", help="(default: text)")
    output.add_argument("--output", metavar="FILE", help="write there instead of to standard output")
    return output


def add_kernel_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what is known better than by the tool, and ``--debug``."""
    kernel = parser.add_argument_group("kernel")
    kernel.add_argument(
        "--racy-check",
        choices=["old", "new"],
        help="form of the check in isolate_migratepages_block(): page_mapcount() (old) or total_mapcount() (new);"
        " found out from the target if not given",
    )
    parser.add_argument("--debug", action="store_true", help="show where an error comes from")


def open_context(arguments: argparse.Namespace) -> tuple[Target, Context]:
    """
    Open what the user names.

    :raises DrgnThpError: if it cannot be opened, or is not understood
    """
    from ..context import Context
    from ..target import open_target, spec_from_arguments

    target = open_target(spec_from_arguments(arguments))
    try:
        return target, Context.of(target.prog, arguments.racy_check)
    except UnknownLayout as error:
        # A core that is cut off may lack what everything else is found by.
        raise UnknownLayout("; ".join([str(error), *target.notes])) from error


def block_filter(texts: Sequence[str] | None, context: Context) -> Callable[[Block], bool] | None:
    """
    Return which memory blocks the user means.

    :raises BadArgument: if one of the texts means nothing
    """
    from ..blocks import named_blocks

    return named_blocks(texts, context.kernel.page_shift, "--block ")


@contextmanager
def open_output(name: str | None) -> Iterator[TextIO]:
    """
    Open the file to write to; standard output if there is no name.

    :raises BadArgument: if it cannot be written
    """
    if name is None:
        yield sys.stdout
        sys.stdout.flush()
        return
    try:
        with open(name, "w", encoding="utf-8") as file:
            yield file
    except OSError as error:
        raise BadArgument(f"--output {name}: {error.strerror}") from error


@contextmanager
def show_progress(total: int | None) -> Iterator[Callable[[int], None]]:
    """Show a bar on a terminal, if it takes long enough to be seen."""
    from tqdm import tqdm

    with tqdm(total=total, unit="page", unit_scale=True, delay=1, leave=False, disable=None, file=sys.stderr) as bar:
        yield lambda pages: _update(bar, pages)


def _update(bar: Any, pages: int) -> None:
    bar.update(pages)


def find_paths(names: Sequence[str] | None, default: Sequence[str]) -> list[Any]:
    """Return the paths that the user names."""
    from ..gates import find_path, paths

    names = names or default
    return list(paths().values()) if "all" in names else [find_path(name) for name in dict.fromkeys(names)]
