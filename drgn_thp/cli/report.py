# SPDX-License-Identifier: LGPL-2.1-or-later
"""``drgn-thp report``: memory blocks, and the folios in them that would be refused."""

from __future__ import annotations

import argparse
from typing import Any, Callable

from ..errors import BadArgument
from .common import (
    CLEAN,
    INCOMPLETE,
    REFUSALS,
    add_block_argument,
    add_format_arguments,
    add_kernel_arguments,
    block_filter,
    find_paths,
    open_context,
    open_output,
    show_progress,
)
from .watching import add_watch_argument, watch

DEFAULT_PATHS = ("contig", "offline")
DEFAULT_LIMIT = 100


def add(commands: Any) -> None:
    """Add the subcommand to the parser."""
    from ..commands.model import HOLDERS, LOOKS, SEARCH
    from ..gates import paths, reasons_of
    from ..target import add_target_arguments

    about_paths = "; ".join(f"{path.name}: {path.summary}" for path in paths().values())
    parser = commands.add_parser(
        "report",
        help="memory blocks, and the folios in them that would be refused",
        description="List memory blocks and the folios in them that this kernel would refuse to migrate.",
    )
    add_target_arguments(parser)
    asked = parser.add_argument_group("question")
    asked.add_argument(
        "--path",
        action="append",
        metavar="PATH",
        choices=[*paths(), "all"],
        help=f"how the kernel would migrate; may be given more than once (default: {' and '.join(DEFAULT_PATHS)}). "
        f"all, or one of: {about_paths}",
    )
    add_block_argument(asked)
    asked.add_argument(
        "--only",
        action="append",
        metavar="REASON",
        choices=list(reasons_of()),
        help="list only folios refused for this",
    )
    for argument in (*LOOKS, HOLDERS, SEARCH):
        asked.add_argument(*argument.names, **argument.options)
    add_watch_argument(asked)
    output = add_format_arguments(parser)
    output.add_argument(
        "--limit",
        type=int,
        default=DEFAULT_LIMIT,
        metavar="N",
        help=f"list at most N refused folios per path in text; 0 for all (default: {DEFAULT_LIMIT})",
    )
    add_kernel_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Write the report, and return the exit status."""
    from ..commands.model import looks_of
    from ..render import renderers
    from ..report import Question, Report

    target, context = open_context(arguments)
    question = Question(
        find_paths(arguments.path, DEFAULT_PATHS),
        block_filter(arguments.block, context),
        _listed(arguments),
        looks_of(arguments),
        bool(arguments.holders or arguments.search),
        arguments.search,
    )
    if arguments.watch:
        return watch(arguments, context, question)
    with open_output(arguments.output) as out:
        report = Report(context, question, target.types_source, target.notes, slim=target.slim is not None)
        if not report.blocks:
            raise BadArgument(f"no such memory block: {', '.join(arguments.block or ['none at all'])}")
        with show_progress(report.pages) as progress:
            report.progress = progress
            renderers()[arguments.format](report.records(), out, arguments.limit)
    if report.incomplete:
        return INCOMPLETE
    return REFUSALS if any(report.totals.refused.values()) else CLEAN


def _listed(arguments: argparse.Namespace) -> Callable[[Any], bool]:
    """Return for which reasons refused folios are listed: as asked, or all; in text, what is not only counted."""
    only = frozenset(arguments.only or ())
    if only:
        return lambda reason: reason.name in only
    if arguments.format == "text":
        return lambda reason: bool(reason.is_listed())
    return lambda reason: True
