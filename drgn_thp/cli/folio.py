# SPDX-License-Identifier: LGPL-2.1-or-later
"""``drgn-thp folio``: everything about the folios of some pages."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from ..errors import BadArgument
from ..escape import printable
from .common import (
    CLEAN,
    FAILED,
    INCOMPLETE,
    REFUSALS,
    add_format_arguments,
    add_kernel_arguments,
    find_paths,
    open_context,
    open_output,
)


def add(commands: Any) -> None:
    """Add the subcommand to the parser."""
    from ..gates import paths
    from ..target import add_target_arguments

    parser = commands.add_parser(
        "folio",
        help="everything about the folios of some pages",
        description="Explain folios: facts, formulas, what holds their references, and the verdict on every path.",
    )
    add_target_arguments(parser)
    parser.add_argument(
        "pages",
        nargs="+",
        metavar="PFN|ADDRESS",
        help="page frame number, physical address, kernel address, or address of a struct page;"
        " pfn:, phys:, virt: or page: in front says which",
    )
    parser.add_argument("--path", action="append", metavar="PATH", choices=[*paths(), "all"], help="only this path")
    add_format_arguments(parser)
    add_kernel_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Write the explanations, and return the exit status."""
    from drgn import FaultError

    from ..explanation import write_explanation
    from ..ledger import Explanation, explain
    from ..render import renderers

    target, context = open_context(arguments)
    paths = [path.of(context.kernel) for path in find_paths(arguments.path, ("all",))]
    explanations: list[Explanation] = []
    failures: list[str] = []
    for page in arguments.pages:
        try:
            explanations += explain(context, [page], paths)
        except BadArgument as error:
            failures.append(str(error))
        except FaultError as error:
            why = "is not recorded in this slim core" if target.slim is not None else "cannot be read"
            failures.append(f"{page}: its struct page {why} ({error})")
    for failure in failures:
        print(f"drgn-thp: {printable(failure)}", file=sys.stderr)
    if not explanations:
        return FAILED
    with open_output(arguments.output) as out:
        if arguments.format == "text":
            for i, explanation in enumerate(explanations):
                out.write("\n" * bool(i))
                write_explanation(explanation, out)
        else:
            records = (record for explanation in explanations for record in explanation.records)
            renderers()[arguments.format](records, out, 0)
    undecided = any(record["verdict"] == "unknown" for explanation in explanations for record in explanation.records)
    if failures or undecided or context.doubts.notes:
        return INCOMPLETE
    return REFUSALS if any(explanation.refused for explanation in explanations) else CLEAN
