# SPDX-License-Identifier: LGPL-2.1-or-later
"""``reasons``: what the reasons for refusal mean. Needs no target."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence
from typing import TextIO

from ..gates import find_reason, paths, reasons_of
from ..session import Session
from .model import Answer, Argument

DESCRIPTION = "Explain reasons for refusal: what each means, what to do, and which checks of which paths give it."
WIDTH = 100


def arguments() -> Sequence[Argument]:
    """Return the options."""
    return (Argument("reasons", nargs="*", metavar="REASON", help="only this one (default: all)"),)


def ask(session: Session | None, arguments: argparse.Namespace) -> Answer:
    """Explain reasons. The value is a list of :class:`drgn_thp.gates.Reason`."""
    reasons = [find_reason(name) for name in arguments.reasons or reasons_of()]
    records = [
        {
            "kind": "reason",
            "reason": reason.name,
            "meaning": reason.meaning,
            "advice": reason.advice,
            "only_counted": reason.only_counted,
            "checks": [
                {"path": path.name, "check": gate.kernel, "duration": gate.duration.value, "wrongly": gate.wrongly}
                for path in paths().values()
                for gate in path.gates
                if gate.reason is reason
            ],
        }
        for reason in reasons
    ]
    return Answer(reasons, records)


def write(answer: Answer, out: TextIO) -> None:
    """Write a paragraph for each."""
    for i, record in enumerate(answer.records):
        out.write("\n" * bool(i) + f"{record['reason']}\n")
        for text in (record["meaning"], f"What to do: {record['advice']}"):
            out.write(textwrap.fill(text, WIDTH, initial_indent="    ", subsequent_indent="    ") + "\n")
        for check in record["checks"]:
            wrongly = ", wrongly" if check["wrongly"] else ""
            out.write(f"    {check['path']}: {check['check']} ({check['duration']}{wrongly})\n")
