# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether what drgn_thp says of a folio, and what the kernel did with it, are the same."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from .answers import VACATED, Answer, Told
from .said import Folio, Record


class Outcome(Enum):
    """How a prediction and an answer go together."""

    AGREES = "agrees"
    DOUBT = "doubt"
    """The prediction says itself that it may be otherwise by the time the kernel is asked: transient, or unknown."""
    DISAGREES = "disagrees"
    BLOCK = "its block"
    """The kernel refused the whole memory block before it came to this folio, as was said of the block."""
    NO_ANSWER = "no answer"
    """The kernel never came to this folio."""


LASTING = frozenset({Answer.REFUSED, Answer.NOT_ISOLATED, Answer.NOT_SPLIT, Answer.ENDLESS})
ISOLATION = ("isolat", "add_page_for_migration", "has_unmovable", "vma_migratable")


@dataclass(frozen=True)
class Row:
    """
    One folio on one path.

    :ivar confirmed: The kernel told an errno or the stage where it failed, and it is that of the reason.
    """

    folio: Folio
    path: str
    told: Told
    outcome: Outcome
    confirmed: bool

    @property
    def said(self) -> Record:
        """The record of drgn_thp."""
        return self.folio.said[self.path]


def row(folio: Folio, path: str, told: Told) -> Row:
    """Compare."""
    said = folio.said[path]
    outcome = _outcome(said, told.answer)
    confirmed = False
    if said["verdict"] == "refused" and told.stage and outcome is Outcome.AGREES:
        confirmed = _stage(said["check"]) == told.stage and (
            not told.word.startswith("-E") or told.word in said["check"]
        )
        if not confirmed:
            outcome = Outcome.DISAGREES
    return Row(folio, path, told, outcome, confirmed)


def _stage(check: str) -> str:
    return "isolation" if any(word in check for word in ISOLATION) else "migration"


def _outcome(said: Record, answer: Answer) -> Outcome:
    if answer is Answer.BLOCK_REFUSED:
        return Outcome.BLOCK
    if answer is Answer.NOT_REACHED:
        return Outcome.NO_ANSWER
    if said["verdict"] == "unknown":
        return Outcome.DOUBT
    if said["verdict"] == "ok":
        return Outcome.AGREES if answer in VACATED else Outcome.DISAGREES
    duration = said["duration"]
    if duration == "will-block":
        return Outcome.AGREES if answer is Answer.BLOCKED else Outcome.DISAGREES
    if duration == "transient":
        return Outcome.DOUBT if answer in VACATED else Outcome.AGREES
    if duration == "endless":
        return Outcome.AGREES if answer is Answer.ENDLESS else Outcome.DISAGREES
    return Outcome.AGREES if answer in LASTING else Outcome.DISAGREES
