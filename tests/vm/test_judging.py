# SPDX-License-Identifier: LGPL-2.1-or-later
"""What churn.py calls a mistake, and what it takes for an excuse: without a guest."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from tests.vm import churn
from tests.vm.churn import Judge
from tests.vm.guest import GuestError
from tests.vm.looking import PATHS, Round

PAGES = [0x100000 + 0x1000 * i for i in range(20)]
OTHER = 0x200000
"""The first page of a large folio that the guest does not hold for ever."""


def guest(*lines: str) -> Any:
    """Return what has printed some lines."""
    return SimpleNamespace(serial=lambda: "".join(line + "\n" for line in lines))


def said(pages: list[int], since: float = 100.0, until: float = 105.0) -> Round:
    """Return a round that calls pages held, the others by large folios."""
    held = [
        {"pfn": page, "order": 9 if page >= OTHER else 0, "path": path, "reason": "extra-reference"}
        for page in pages
        for path in PATHS
    ]
    return Round(since - 1, since, until, {"held": len(held)}, 7, held, {"changing": 1})


def test_all_that_is_held_and_nothing_else() -> None:
    """Then there is nothing to say."""
    judge = Judge(guest(), PAGES)
    judge.judge("inside", said(PAGES))
    judge.excuse(0)
    assert not judge.missed
    assert not judge.wrong
    assert judge.said["inside"] == judge.asked["inside"] == len(PAGES) * len(PATHS)


def test_what_is_missing() -> None:
    """By path: a page that two of them show is missed by the third."""
    judge = Judge(guest(), PAGES)
    found = said(PAGES[1:])
    found.held += said(PAGES[:1]).held[1:]
    judge.judge("inside", found)
    assert judge.missed == [f"inside, round 1: {PATHS[0]} {PAGES[0]:#x}"]


@pytest.mark.parametrize(
    ("since", "until", "page", "excused"),
    [
        (99, 105, OTHER + 511, True),
        (101, 105, OTHER, True),  # before the end of the first look
        (102, 105, OTHER, False),  # in the second one
        (99, 104, OTHER, False),  # until the last look but one
        (20, 40, OTHER, False),  # at another time
        (99, 105, OTHER + 512, False),  # another folio
    ],
)
def test_only_what_the_guest_held_for_that_time_is_excused(since: int, until: int, page: int, excused: bool) -> None:
    """Times are of the guest's clock, of pages any of a folio."""
    judge = Judge(guest(f"SLOW pipe {since * 1000} {until * 1000} 1 {page:x}"), PAGES)
    judge.judge("inside", said([*PAGES, OTHER]))
    judge.excuse(0)
    assert len(judge.wrong) == (0 if excused else len(PATHS))
    assert judge.excused == ({"inside": {"pipe": len(PATHS)}} if excused else {})


@pytest.mark.parametrize(
    ("left", "leaked"),
    [
        ([["U", "0x200000", "512", hex(churn.ANON | 1)]], True),
        (
            [["U", "0x200000", "1", hex(churn.ANON)], ["U", "0x200001", "511", "0x8000"]],
            False,
        ),  # another's by now
        ([], False),
    ],
)
def test_only_what_is_left_of_ended_processes_was_leaked(
    left: list[list[str]], leaked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That memory of a process is in use without any process."""
    asked: list[str] = []

    def ask(command: str) -> list[list[str]]:
        asked.append(command)
        return left if command.startswith("used") else []

    monkeypatch.setattr(churn, "Agent", lambda guest: SimpleNamespace(ask=ask, close=lambda: None))
    judge = Judge(guest(), PAGES)
    judge.judge("inside", said([*PAGES, OTHER]))
    judge.end()
    assert asked == ["end", f"used {OTHER} {OTHER + 512}"]  # once, whatever said so
    assert len(judge.leaked) == (len(PATHS) if leaked else 0)
    assert len(judge.wrong) == (0 if leaked else len(PATHS))


def test_the_clock_of_who_looks_from_outside() -> None:
    """It is another one, and what tells the time was printed some time ago."""
    ours = time.monotonic()
    judge = Judge(guest("CLOCK 90000", "SLOW pipe 100000 105000 200000", "CLOCK 1000"), PAGES)
    judge.tick()
    assert judge.offset == pytest.approx(ours - 1, abs=0.5)
    judge.judge("outside", said([*PAGES, OTHER], 1100, 1105), 1000)
    judge.judge("outside", said([*PAGES, OTHER], 100, 105), 1000)
    judge.excuse(0)
    assert judge.excused["outside"]["pipe"] == len(PATHS)
    assert len(judge.wrong) == len(PATHS)


def test_rounds_from_inside_are_judged_once() -> None:
    """And not before they are whole."""
    line = "ROUND " + said(PAGES).line()
    lines = [line, line]
    judge = Judge(SimpleNamespace(serial=lambda: "\n".join([*lines, line[:-40]])), PAGES)  # type: ignore[arg-type]
    judge.inside()
    assert judge.rounds["inside"] == 2
    judge.inside()
    assert judge.rounds["inside"] == 2
    assert not judge.missed


@pytest.mark.parametrize("line", ["Traceback (most recent call last):", "FAIL Python ended with status 0x100"])
def test_who_looks_from_inside_may_not_fail(line: str) -> None:
    """Whatever it prints."""
    churn.check(guest("READY"))
    with pytest.raises(GuestError):
        churn.check(guest("READY", line))
