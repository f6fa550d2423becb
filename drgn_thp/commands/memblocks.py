# SPDX-License-Identifier: LGPL-2.1-or-later
"""``memblocks``: memory blocks, and what becomes of who wants to take them away."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Callable, TextIO

from ..blocks import Block, named_blocks
from ..confirm import Looks
from ..errors import BadArgument
from ..gates import find_path, paths
from ..render.text import render
from ..report import Question, Report
from ..session import Session
from .model import BLOCKS, Answer, Argument

DESCRIPTION = (
    "List memory blocks: state, zone, how many of their folios would be refused and for which reasons, and what becomes"
    " of who tries to offline or unplug them."
)
DEFAULT_PATHS = ("contig", "offline")


def arguments() -> Sequence[Argument]:
    """Return the options."""
    return (
        BLOCKS,
        Argument(
            "--path",
            action="append",
            metavar="PATH",
            choices=list(paths()),
            help=f"how the kernel would migrate: {', '.join(paths())} (default: {' and '.join(DEFAULT_PATHS)})",
        ),
    )


def ask(session: Session, arguments: argparse.Namespace) -> Answer:
    """Scan the blocks. The value is a list of records, one for each block, as in docs/schema.md."""
    return scan(session, arguments.path or DEFAULT_PATHS, arguments.blocks, lists=False)


def scan(
    session: Session,
    names: Sequence[str],
    blocks: Sequence[str],
    lists: bool,
    only: Callable[[Block], bool] = lambda block: True,
    looks: Looks | None = None,
    holders: bool = False,
    search: bool = False,
) -> Answer:
    """
    Scan blocks.

    :param lists: Whether the value is the refused folios, rather than the blocks
    :param looks: How often to look at them again
    :param holders: Whether to find out who holds them
    :param search: Whether to search for what points to those that are not explained
    :param only: Which blocks to look at, of those that the user names
    :raises BadArgument: if there are no such paths or blocks
    """
    context = session.context
    named = named_blocks(blocks, context.kernel.page_shift)

    def wanted(block: Block) -> bool:
        return only(block) and (named is None or named(block))

    question = Question(
        [find_path(name) for name in dict.fromkeys(names)],
        wanted,
        lambda reason: lists and reason.is_listed(),
        looks,
        holders,
        search,
    )
    report = Report(context, question, session.types_source, session.notes, slim=session.slim)
    if not report.blocks:
        raise BadArgument(f"no such memory block: {', '.join(blocks) or 'none at all'}")
    with session.progress(report.pages) as progress:
        report.progress = progress
        records = list(report.records())
    value = [record for record in records if record["kind"] == ("folio" if lists else "block")]
    records = [*value, records[-1]] if lists else [record for record in records if record["kind"] != "folio"]
    return Answer(value, records, any(report.totals.refused.values()), incomplete=report.incomplete)


def write(answer: Answer, out: TextIO) -> None:
    """Write the table of blocks."""
    render(answer.records, out, 0)
