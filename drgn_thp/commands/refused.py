# SPDX-License-Identifier: LGPL-2.1-or-later
"""``refused``: the folios that a path of migration would refuse."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TextIO

from ..gates import paths
from ..render.text import render
from ..session import Session
from .memblocks import scan
from .model import BLOCKS, HOLDERS, LOOKS, SEARCH, Answer, Argument, looks_of

DESCRIPTION = (
    "List the folios that a path of migration would refuse, with the first check that does. What any host has a lot"
    " of (slab, page tables, ...) is counted, but not listed."
)
DEFAULT_PATH = "contig"


def arguments() -> Sequence[Argument]:
    """Return the options."""
    return (
        Argument(
            "path",
            nargs="?",
            metavar="PATH",
            help=f"how the kernel would migrate: {', '.join(paths())} (default: {DEFAULT_PATH})",
        ),
        BLOCKS,
        *LOOKS,
        HOLDERS,
        SEARCH,
    )


def asked(arguments: argparse.Namespace) -> tuple[str, list[str]]:
    """Return the path and the blocks that the user means."""
    path, blocks = arguments.path, arguments.blocks
    if path is not None and path[:1].isdigit():  # without a path, the first is a block
        path, blocks = None, [path, *blocks]
    return path or DEFAULT_PATH, blocks


def ask(session: Session, arguments: argparse.Namespace) -> Answer:
    """Scan the blocks. The value is a list of records, one for each folio that is refused, as in docs/schema.md."""
    path, blocks = asked(arguments)
    looks, holders, search = looks_of(arguments), bool(arguments.holders or arguments.search), arguments.search
    return scan(session, [path], blocks, lists=True, looks=looks, holders=holders, search=search)


def write(answer: Answer, out: TextIO) -> None:
    """Write the table of folios."""
    render(answer.records, out, 0)
