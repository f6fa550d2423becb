# SPDX-License-Identifier: LGPL-2.1-or-later
"""``folio``: everything about the folios of some pages."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TextIO

from drgn import FaultError

from ..errors import BadArgument
from ..escape import printable
from ..explanation import write_explanation
from ..gates import find_path, paths
from ..ledger import Explanation, explain
from ..session import Session
from .model import SEARCH, Answer, Argument

DESCRIPTION = "Explain folios: facts, formulas, what holds their references, and the verdict on every path."


def arguments() -> Sequence[Argument]:
    """Return the options."""
    return (
        Argument(
            "pages",
            nargs="+",
            metavar="PFN|ADDRESS|PID:ADDRESS",
            help="page frame number, physical address, kernel address, or address of a struct page;"
            " pfn:, phys:, virt: or page: in front says which, and a process ID that it is an address of that process",
        ),
        Argument("--path", action="append", metavar="PATH", choices=[*paths(), "all"], help="only this path"),
        Argument(
            "--holders",
            action="store_true",
            help="find out who holds them, and who maps them",
        ),
        SEARCH,
    )


def ask(session: Session, arguments: argparse.Namespace) -> Answer:
    """
    Explain the folios of some pages. The value is a list of :class:`drgn_thp.ledger.Explanation`.

    A page that cannot be explained is a failure, and does not keep from the others.
    """
    context = session.context
    names = paths() if not arguments.path or "all" in arguments.path else dict.fromkeys(arguments.path)
    asked = [find_path(name).of(context.kernel) for name in names]
    explanations: list[Explanation] = []
    failures: list[str] = []
    for page in arguments.pages:
        try:
            explanations += explain(context, [page], asked, arguments.holders or arguments.search, arguments.search)
        except BadArgument as error:
            failures.append(str(error))
        except FaultError as error:
            why = "is not recorded in this slim core" if session.slim else "cannot be read"
            what = (
                "its page table, or struct page,"
                if page.partition(":")[0].isdecimal() and ":" in page
                else "its struct page"
            )
            failures.append(f"{page}: {what} {why} ({error})")
    records = [record for explanation in explanations for record in explanation.records]
    undecided = sum(record["verdict"] == "unknown" for record in records)
    incomplete = [f"{undecided} verdicts are unknown"] * bool(undecided) + context.doubts.notes
    problems = dict.fromkeys(problem for explanation in explanations for problem in explanation.problems)
    incomplete += problems
    refused = any(explanation.refused for explanation in explanations)
    return Answer(explanations, records, refused, failures, incomplete)


def write(answer: Answer, out: TextIO) -> None:
    """Write an explanation after the other."""
    for i, explanation in enumerate(answer.value):
        out.write("\n" * bool(i))
        write_explanation(explanation, out)
    held = dict.fromkeys(problem for explanation in answer.value for problem in explanation.problems)
    out.write("".join(f"INCOMPLETE: {printable(problem)}\n" for problem in held))
