# SPDX-License-Identifier: LGPL-2.1-or-later
"""``--watch``: the same question over and over."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from ..errors import BadArgument
from .common import CLEAN, INCOMPLETE, REFUSALS, block_filter, open_output

if TYPE_CHECKING:
    from ..context import Context
    from ..report import Question


def add_watch_argument(group: Any) -> None:
    """Add the option."""
    group.add_argument(
        "--watch",
        action="store_true",
        help="look over and over, --interval apart, and show which refused folios appeared and which vanished, until"
        " Ctrl-C; only with -k or --qemu",
    )


def watch_refused(arguments: argparse.Namespace, context: Context) -> int:
    """Watch what ``refused`` lists."""
    from ..commands.model import looks_of
    from ..commands.refused import asked
    from ..gates import Reason, find_path
    from ..report import Question

    path, blocks = asked(arguments)
    wanted = block_filter(blocks or None, context)
    question = Question([find_path(path)], wanted, Reason.is_listed, looks_of(arguments))
    return watch(arguments, context, question)


def watch(arguments: argparse.Namespace, context: Context, question: Question) -> int:
    """
    Watch until interrupted, and return the exit status: of the last look that was completed.

    :raises BadArgument: of a dump, together with --confirm or --holders, or in JSON, which is one array
    """
    from ..context import Context
    from ..render import renderers
    from ..report import Report
    from ..watch import Watch, check_watch, flushing, write

    check_watch(context, question)
    if arguments.format == "json":
        raise BadArgument("--watch --format json: an array that does not end; ndjson has a record a line")
    watching = Watch(
        lambda: Context.fresh(context.prog, arguments.racy_check),
        lambda now: Report(now, question),
        arguments.interval,
    )
    with open_output(arguments.output) as out:
        records = flushing(watching.records(), out)
        if arguments.format == "text":
            write(records, out)
        else:
            renderers()[arguments.format](records, out, 0)
    if watching.incomplete:
        return INCOMPLETE
    return REFUSALS if watching.refused else CLEAN
