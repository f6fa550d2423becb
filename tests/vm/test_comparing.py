# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the truth run calls agreement, and what no answer: without a guest."""

from __future__ import annotations

from typing import Any

import pytest

from tests.vm.truth.answers import Answer, Told
from tests.vm.truth.judge import Outcome, row
from tests.vm.truth.run import _reached
from tests.vm.truth.said import Folio

OK: dict[str, Any] = {"verdict": "ok", "reason": None, "duration": None, "check": None}


def refused(duration: str, check: str = "folio_migrate_mapping(): -EAGAIN") -> dict[str, Any]:
    return {"verdict": "refused", "reason": "extra-reference", "duration": duration, "check": check}


def folio(said: dict[str, Any], pfn: int = 0x100000) -> Folio:
    return Folio(pfn, 0, (), {"offline": said})


@pytest.mark.parametrize(
    ("said", "answer", "outcome"),
    [
        (OK, Answer.MOVED, Outcome.AGREES),
        (OK, Answer.RECLAIMED, Outcome.AGREES),
        (OK, Answer.ENDLESS, Outcome.DISAGREES),
        (OK, Answer.BLOCKED, Outcome.DISAGREES),
        (OK, Answer.NOT_REACHED, Outcome.NO_ANSWER),
        (OK, Answer.BLOCK_REFUSED, Outcome.BLOCK),
        (refused("permanent"), Answer.BLOCK_REFUSED, Outcome.BLOCK),
        (refused("permanent"), Answer.REFUSED, Outcome.AGREES),
        (refused("permanent"), Answer.MOVED, Outcome.DISAGREES),
        (refused("permanent"), Answer.BLOCKED, Outcome.DISAGREES),
        (refused("endless"), Answer.ENDLESS, Outcome.AGREES),
        (refused("endless"), Answer.REFUSED, Outcome.DISAGREES),
        (refused("will-block"), Answer.BLOCKED, Outcome.AGREES),
        (refused("will-block"), Answer.MOVED, Outcome.DISAGREES),
        (refused("transient"), Answer.MOVED, Outcome.DOUBT),
        (refused("transient"), Answer.REFUSED, Outcome.AGREES),
        ({**OK, "verdict": "unknown"}, Answer.MOVED, Outcome.DOUBT),
    ],
)
def test_outcomes(said: dict[str, Any], answer: Answer, outcome: Outcome) -> None:
    assert row(folio(said), "offline", Told(answer)).outcome is outcome


@pytest.mark.parametrize(
    ("check", "told", "outcome", "confirmed"),
    [
        ("folio_migrate_mapping(): -EAGAIN", Told(Answer.REFUSED, "", "migration"), Outcome.AGREES, True),
        ("folio_migrate_mapping(): -EAGAIN", Told(Answer.REFUSED, "", "isolation"), Outcome.DISAGREES, False),
        ("folio_isolate_lru(): -EBUSY", Told(Answer.NOT_ISOLATED, "-EBUSY", "isolation"), Outcome.AGREES, True),
        ("folio_isolate_lru(): -EBUSY", Told(Answer.REFUSED, "-EFAULT", "isolation"), Outcome.DISAGREES, False),
        ("folio_migrate_mapping(): -EAGAIN", Told(Answer.REFUSED), Outcome.AGREES, False),
    ],
)
def test_the_reason_has_to_be_the_one_the_kernel_tells(
    check: str, told: Told, outcome: Outcome, confirmed: bool
) -> None:
    """Another step, or another errno, is a disagreement."""
    one = row(folio(refused("permanent", check)), "offline", told)
    assert (one.outcome, one.confirmed) == (outcome, confirmed)


def test_what_stays_beside_a_refused_folio_is_no_answer() -> None:
    """One in another place is one, and so is the refused one itself."""
    near, far, culprit = folio(OK, 1), folio(OK, 100), folio(refused("endless"), 2)
    answers = {one.pfn: Told(Answer.ENDLESS) for one in (near, far, culprit)}
    reached = _reached("offline", [near, far, culprit], answers, lambda one: {one.pfn // 50})
    assert [reached[pfn].answer for pfn in (1, 2, 100)] == [Answer.NOT_REACHED, Answer.ENDLESS, Answer.ENDLESS]


@pytest.mark.parametrize("strangers", [False, True])
def test_what_stays_beside_a_strangers_refused_folio(strangers: bool) -> None:
    """Nobody has marked it, but it is counted. What went, went."""
    stayed, went = folio(OK, 1), folio(OK, 2)
    answers = {1: Told(Answer.ENDLESS), 2: Told(Answer.MOVED)}
    reached = _reached("offline", [stayed, went], answers, lambda one: {0}, strangers)
    assert reached[1].answer is (Answer.NOT_REACHED if strangers else Answer.ENDLESS)
    assert reached[2].answer is Answer.MOVED
