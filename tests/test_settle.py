# SPDX-License-Identifier: LGPL-2.1-or-later
"""Folios of a live target that contradict themselves. A fixture is made one whose memory changes between two reads."""

from __future__ import annotations

import pytest
from drgn.helpers.linux.mm import pfn_to_page

from drgn_thp.context import Context
from drgn_thp.gates import find_path
from drgn_thp.report import Question, Report
from drgn_thp.target import TargetSpec, open_target
from tests.fixture import ALL

FIXTURE = ALL[1]
PAGE = 4096


class Changing:
    """
    A Program in which a folio has too few references, for a number of reads of its struct page.

    :ivar left: For how many reads to come
    """

    def __init__(self, scenario: str) -> None:
        self.prog = open_target(TargetSpec(core=str(FIXTURE.core), default_symbols="none")).prog
        self.context = Context.of(self.prog)
        mark = next(mark for mark in FIXTURE.marks if mark.scenario == scenario)
        self.pfn = mark.head
        self.block = self.pfn * PAGE >> 27
        self.left = 0
        page = pfn_to_page(self.prog, self.pfn)
        self._start = int(page) & -PAGE
        self._data = self.prog.read(self._start, PAGE)
        self._refcount = int(page._refcount.counter.address_) - self._start
        self.prog.add_memory_segment(self._start, PAGE, self._read, False)

    def _read(self, address: int, count: int, offset: int, physical: bool) -> bytes:
        data = bytearray(self._data)
        if self.left:
            self.left -= 1
            data[self._refcount : self._refcount + 4] = (1).to_bytes(4, "little")
        start = address - self._start
        return bytes(data[start : start + count])

    def report(self) -> tuple[Report, list[dict[str, object]]]:
        paths = [find_path("offline").of(self.context.kernel)]
        report = Report(self.context, Question(paths, lambda block: block.id == self.block))
        return report, list(report.records())


@pytest.fixture
def forked() -> Changing:
    """A folio that several processes map, in a fixture that passes for a live kernel."""
    changing = Changing("thp_forked")
    changing.context.live = True
    return changing


def test_what_settles_is_judged(forked: Changing) -> None:
    """Contradictory for two reads only: the folio is judged like any other."""
    forked.left = 2
    report, records = forked.report()
    assert forked.context.settler.read_again == 1
    assert report.totals.changing == 0
    assert forked.pfn not in [record.get("pfn") for record in records]
    assert report.incomplete == []


def test_what_does_not_settle_is_changing(forked: Changing) -> None:
    """It is counted, and nothing is said of it."""
    forked.left = 1 << 30
    report, records = forked.report()
    assert report.totals.changing == 1
    assert forked.pfn not in [record.get("pfn") for record in records]
    assert any("contradicted themselves" in what for what in report.incomplete)
    assert records[0]["changing_folios"] == records[-1]["changing_folios"] == 1


def test_a_dump_is_not_read_again() -> None:
    """What is in it will not become another thing."""
    dump = Changing("thp_forked")
    dump.left = 1 << 30
    report, records = dump.report()
    assert report.totals.changing == 0
    [found] = [record for record in records if record.get("pfn") == dump.pfn]
    assert found["reason"] == "missing-reference"
