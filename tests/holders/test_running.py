# SPDX-License-Identifier: LGPL-2.1-or-later
"""What runs the walkers: each for itself, and nothing lost or counted twice."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy
import pytest
from drgn import FaultError

from drgn_thp.context import Context
from drgn_thp.holders import Registry, registry, running
from drgn_thp.holders.balance import Sheet
from drgn_thp.holders.ground import Ground
from drgn_thp.holders.model import Claim, Damaged, Owner, Walker
from drgn_thp.holders.running import Findings, Held, find_holders
from drgn_thp.suspects import Suspects
from tests.fixture import ALL

FILE = Owner("thing", mm=0x1000)


@pytest.fixture(scope="module")
def context() -> Context:
    """Any target: these walkers do not look at it."""
    return ALL[0].context


def suspects(*pairs: tuple[int, int]) -> Suspects:
    return Suspects(numpy.array([pfn for pfn, _ in pairs]), numpy.array([pages for _, pages in pairs]))


def run(monkeypatch: pytest.MonkeyPatch, context: Context, *walks: Any, seconds: float = 5, **options: Any) -> Findings:
    walkers = {f"w{i}": Walker(f"w{i}", "", "", walk, **options) for i, walk in enumerate(walks)}
    monkeypatch.setattr(running, "registry", lambda: Registry(walkers))
    return find_holders(context, suspects((16, 16), (64, 1), (65, 1)), seconds=seconds)


def good(ground: Ground) -> Iterator[Claim]:
    yield Claim(FILE, [15, 16, 31, 32, 64], gets=1)
    yield Claim(FILE, [65, 65], pins=[1, 2])
    yield Claim(Owner("other", cpu=1), [64], gets=1, exact=False)


def test_pages_become_folios(monkeypatch: pytest.MonkeyPatch, context: Context) -> None:
    """Any page of a folio counts for it, a page that is there twice counts twice, and others do not."""
    findings = run(monkeypatch, context, good)
    assert findings.problems == []
    assert [(h.owner.what, h.gets, h.pins, h.exact) for h in findings.of(16)] == [("thing", 2, 0, True)]
    assert [(h.owner.what, h.gets, h.pins, h.exact) for h in findings.of(64)] == [
        ("thing", 1, 0, True),
        ("other", 1, 0, False),
    ]
    assert [(h.gets, h.pins) for h in findings.of(65)] == [(0, 3)]
    assert findings.of(15) == []


def passing(ground: Ground) -> Iterator[Claim]:
    yield Claim(FILE, [64], gets=1)
    yield Claim(FILE, [65], gets=1, transient=True)
    yield Claim(FILE, [16], gets=1, transient=True, expected=True)


@pytest.mark.parametrize("by_itself", [False, True])
def test_who_lets_go_by_itself(monkeypatch: pytest.MonkeyPatch, context: Context, by_itself: bool) -> None:
    """A claim says so, or else its walker; what mm expects is in nobody's way."""
    findings = run(monkeypatch, context, passing, transient=by_itself)
    assert [[held.transient for held in findings.of(pfn)] for pfn in (64, 65, 16)] == [[by_itself], [True], [True]]
    assert findings.may_pass(numpy.array([16, 64, 65, 66])).tolist() == [False, by_itself, True, False]


@pytest.mark.parametrize(
    ("refs", "unexplained", "passes"),
    [
        (((True, 1),), 0, True),
        (((True, 1), (False, 0)), 0, True),
        (((True, 1), (False, 1)), 0, False),
        (((True, 1),), 1, False),
        (((True, 1),), -1, False),
        (((False, 0),), 0, False),
    ],
)
def test_all_that_is_held_passes_or_nothing_does(
    refs: tuple[tuple[bool, int], ...], unexplained: int, passes: bool
) -> None:
    """One holder that stays, or one reference that nobody explains, is enough to keep a folio."""
    holders = tuple((Held("x", FILE, 1, 0, True, not n, transient), n, ()) for transient, n in refs)
    assert Sheet(1, holders, unexplained, 0).passing is passes


def failing(ground: Ground) -> Iterator[Claim]:
    yield Claim(FILE, [64], gets=1)
    raise FaultError("could not read", 0x2000)


def damaged(ground: Ground) -> Iterator[Claim]:
    for _ in range(3):
        with ground.part("object"):
            raise Damaged("nonsense")
    yield Claim(FILE, [64], gets=1)


def endless(ground: Ground) -> Iterator[Claim]:
    while True:
        ground.step()
    yield Claim(FILE, [])


def no_claim(ground: Ground) -> Iterator[Any]:
    yield 64


def test_a_walker_fails_alone(monkeypatch: pytest.MonkeyPatch, context: Context) -> None:
    """Whatever it does, it is one line, and the claims of the others stand."""
    findings = run(monkeypatch, context, failing, damaged, endless, no_claim, good, seconds=0.2)
    states = [(outcome.state, outcome.failures) for outcome in findings.outcomes]
    assert states == [("failed", 0), ("ran", 3), ("failed", 0), ("failed", 0), ("ran", 0)]
    assert len(findings.problems) == 4
    assert "walker w0 failed" in findings.problems[0]
    assert "3 objects could not be followed (first: object: nonsense)" in findings.problems[1]
    assert "too long" in findings.problems[2]
    assert [h.kind for h in findings.of(64)] == ["w0", "w1", "w4", "w4"]


def test_who_lets_go_by_itself_is_known(monkeypatch: pytest.MonkeyPatch, context: Context) -> None:
    """As the walker says of its kind."""
    for transient in (False, True):
        findings = run(monkeypatch, context, good, transient=transient)
        assert [held.transient for held in findings.of(16)] == [transient]


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch, context: Context) -> None:
    """A kernel without such holders lacks nothing; one whose holders cannot be read does."""
    absent = run(monkeypatch, context, good, types=("struct no_such_thing",), symbols=("no_such_symbol",))
    assert (absent.outcomes[0].state, absent.problems) == ("absent", [])
    absent = run(monkeypatch, context, good, types=("struct no_such_thing",), module="no_such_module")
    assert (absent.outcomes[0].state, absent.problems) == ("absent", [])
    skipped = run(monkeypatch, context, good, types=("struct page", "struct no_such_thing"))
    assert skipped.outcomes[0].state == "skipped"
    assert "nothing describes struct no_such_thing" in skipped.problems[0]
    skipped = run(monkeypatch, context, good, types=("struct page",), symbols=("no_such_symbol",))
    assert "no_such_symbol" in skipped.problems[0]


class _Entry:
    """An entry point of another package."""

    def __init__(self, name: str, loaded: Any) -> None:
        self.name, self.value, self._loaded = name, f"package:{name}", loaded

    def load(self) -> Any:
        if isinstance(self._loaded, Exception):
            raise self._loaded
        return self._loaded


def test_walkers_of_other_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are found by their entry point; one that cannot be had is said, and keeps nobody from anything."""
    theirs = Walker("theirs", "", "", good)
    entries = [_Entry("a", theirs), _Entry("b", ImportError("no")), _Entry("c", 3), _Entry("d", registry)]
    entries.append(_Entry("e", Walker("pipe", "", "", good)))
    monkeypatch.setattr("drgn_thp.holders._entry_points", lambda: entries)
    found = registry.__wrapped__()
    assert found.walkers["theirs"] is theirs
    assert found.walkers["pipe"] is registry().walkers["pipe"]
    assert [problem.split(" cannot")[0] for problem in found.problems] == [f"holders of package:{x}" for x in "bcde"]
