# SPDX-License-Identifier: LGPL-2.1-or-later
"""Looking again at refused folios. A fixture is made a live target whose memory a test changes between looks."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from drgn import FaultError
from drgn.helpers.linux.mm import pfn_to_page

from drgn_thp import confirm
from drgn_thp.cli import main
from drgn_thp.confirm import READS, Label, Looks
from drgn_thp.context import Context
from drgn_thp.errors import BadArgument
from drgn_thp.gates import find_path
from drgn_thp.report import Question, Report
from drgn_thp.target import TargetSpec, open_target
from tests.fixture import ALL, EACH, Fixture

PAGE = 4096
LOOKS = 3
NOW = confirm.Confirmation._now
Change = Callable[["Changing", int], None]


class Changing:
    """
    A fixture that passes for a live kernel: the struct pages around one folio can be written.

    A test's function is called before each read of a look, with the number of reads so far: of look ``n`` from
    ``n * READS`` on.
    """

    def __init__(self, fixture: Fixture, scenario: str) -> None:
        self.prog = open_target(TargetSpec(core=str(fixture.core), default_symbols="none")).prog
        self._look_anew()
        self.pfn = next(mark.head for mark in fixture.marks if mark.scenario == scenario and mark.held)
        self.block = self.pfn * PAGE >> 27
        self.size = self.context.layout.page_struct_size
        self._start = int(pfn_to_page(self.prog, self.pfn)) & -PAGE
        self._data = bytearray(self.prog.read(self._start, PAGE))
        self._pristine = bytes(self._data)
        self.unreadable = False
        self.prog.add_memory_segment(self._start, PAGE, self._read, False)

    def _read(self, address: int, count: int, offset: int, physical: bool) -> bytes:
        if self.unreadable:
            raise FaultError("not mapped any more", address)
        start = address - self._start
        return bytes(self._data[start : start + count])

    @staticmethod
    @cache
    def _opened(fixture: Fixture, scenario: str) -> Changing:
        return Changing(fixture, scenario)

    @staticmethod
    def of(fixture: Fixture, scenario: str) -> Changing:
        """Return one as it is at first, and a context that knows nothing of it yet: to open it takes long."""
        changing = Changing._opened(fixture, scenario)
        changing.restore()
        changing._look_anew()
        return changing

    def _look_anew(self) -> None:
        self.prog.cache.clear()
        self.context = Context.of(self.prog)
        self.context.live = True

    def restore(self) -> None:
        """Make everything as it was."""
        self._data[:] = self._pristine
        self.unreadable = False

    def write(self, fact: str, value: int | None = None, add: int = 0) -> None:
        """Write a word of the folio's struct pages."""
        field = self.context.layout.fields[fact]
        at = (self.context.layout.vmemmap + (self.pfn + field.page) * self.size + field.offset) - self._start
        width = field.dtype.itemsize
        old = int.from_bytes(self._data[at : at + width], "little")
        new = (old if value is None else value) + add
        self._data[at : at + width] = (new % (1 << 8 * width)).to_bytes(width, "little")

    def map(self, times: int) -> None:
        """Map the whole folio more often."""
        self.write("entire_mapcount", add=times)
        if "large_mapcount" in self.context.layout.fields:
            self.write("large_mapcount", add=times)

    def free(self) -> None:
        """Make the folio's first page a free one."""
        at = self.context.layout.vmemmap + self.pfn * self.size - self._start
        flags = self._data[at : at + 8]
        self._data[at : at + self.size] = bytes(self.size)
        self._data[at : at + 8] = (int.from_bytes(flags, "little") >> 48 << 48).to_bytes(8, "little")
        self.write("type_word", 0xFFFFFFFF)

    def label(self, change: Change, monkeypatch: pytest.MonkeyPatch) -> str | None:
        """Return the label of the folio."""
        label: str | None = self.record(change, monkeypatch)["confirmed"]
        return label

    def record(self, change: Change, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
        """Return the record of the folio."""
        return self.records(change, monkeypatch)[0]

    def records(self, change: Change, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Any], dict[str, Any], Report]:
        """Return the record of the folio, the summary, and the report."""
        reads = 0

        def read_now(confirmation: confirm.Confirmation) -> Context:
            nonlocal reads
            change(self, reads)
            reads += 1
            return NOW(confirmation)

        monkeypatch.setattr(confirm.Confirmation, "_now", read_now)
        paths = [find_path("offline")]
        question = Question(paths, lambda block: block.id == self.block, looks=Looks(LOOKS, 0))
        report = Report(self.context, question)
        records = list(report.records())
        [mine] = [record for record in records if record.get("pfn") == self.pfn]
        assert [record["kind"] for record in records].index("block") == 0
        return mine, records[-1], report


@pytest.fixture(params=EACH)
def held(request: pytest.FixtureRequest) -> Changing:
    """A THP with a page in a pipe, of each kernel."""
    return Changing.of(request.param, "thp_held")


def nothing(held: Changing, reads: int) -> None:
    """What is at rest."""


def test_what_stays_is_persistent(held: Changing, monkeypatch: pytest.MonkeyPatch) -> None:
    """And so is everything else in a dump, in which nothing moves."""
    record, summary, report = held.records(nothing, monkeypatch)
    assert (record["confirmed"], record["confirmed_extra"]) == ("persistent", 1)
    counts = summary["confirm"]["paths"]["offline"]
    assert counts["persistent"] == summary["confirm"]["held"]["offline"] > 1
    assert counts["transient"] == counts["gone"] == 0
    assert summary["confirm"]["looks"] == LOOKS
    assert report.incomplete == []


def at(number: int, *change: Any) -> Change:
    """Return a change that is made at one read only."""

    def apply(held: Changing, reads: int) -> None:
        held.restore()
        if reads == number:
            held.write(change[0], **change[1])

    return apply


def since(number: int, fact: str, **change: int) -> Change:
    """Return a change that stays."""

    def apply(held: Changing, reads: int) -> None:
        if reads == number:
            held.write(fact, **change)

    return apply


def test_let_go_for_a_moment_is_transient(held: Changing, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not refused at one read of all."""
    assert held.label(at(READS + 1, "refcount", {"add": -1}), monkeypatch) == "transient"


def test_one_more_reference_for_a_moment_changes_nothing(held: Changing, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever looks at a folio takes a reference of it: it is held by the other one all the same."""
    assert held.label(at(READS + 1, "refcount", {"add": 1}), monkeypatch) == "persistent"


def test_another_surplus_is_transient(held: Changing, monkeypatch: pytest.MonkeyPatch) -> None:
    """Held twice since the second look, or held twice only at the first."""
    assert held.label(since(READS, "refcount", add=1), monkeypatch) == "transient"


def test_fewer_than_the_scan_saw_are_those_that_stay(held: Changing, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scan reads once, and may have caught somebody who was passing."""
    held.write("refcount", add=1)
    assert held.label(since(0, "refcount", add=-1), monkeypatch) == "persistent"


def test_more_than_the_scan_saw_is_transient(held: Changing, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody came between the scan and the first look."""
    assert held.label(since(0, "refcount", add=1), monkeypatch) == "transient"


def test_without_a_surplus_it_is_the_reason_that_stays(held: Changing, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody holds it, but it is locked: for good, or but for one read."""
    held.write("refcount", add=-1)
    held.write("flags", add=held.context.layout.flag("locked"))
    assert held.label(nothing, monkeypatch) == "persistent"

    def unlock(held: Changing, reads: int) -> None:
        locked = held.context.layout.flag("locked")
        if reads in (READS + 1, READS + 2):
            held.write("flags", add=-locked if reads == READS + 1 else locked)

    assert held.label(unlock, monkeypatch) == "transient"


def test_what_passed_does_not_vouch_for_what_stays(held: Changing, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody was passing when the scan came by; since then nobody holds it, and it is refused for another reason."""

    def lock(held: Changing, reads: int) -> None:
        if reads == 0:
            held.write("refcount", add=-1)
            held.write("flags", add=held.context.layout.flag("locked"))

    record = held.record(lock, monkeypatch)
    assert (record["reason"], record["extra"]) == ("extra-reference", 1)
    assert (record["confirmed"], record["confirmed_extra"]) == ("transient", 0)


def test_refused_for_good_but_held_for_a_moment(held: Changing, monkeypatch: pytest.MonkeyPatch) -> None:
    """Locked for good: that is persistent, but it is not held, whoever was passing when the scan came by."""
    held.write("flags", add=held.context.layout.flag("locked"))
    record, summary, _ = held.records(since(0, "refcount", add=-1), monkeypatch)
    assert (record["reason"], record["extra"]) == ("locked", 1)
    assert (record["confirmed"], record["confirmed_extra"]) == ("persistent", 0)
    confirm = summary["confirm"]
    assert confirm["held"]["offline"] == confirm["paths"]["offline"]["persistent"] - 1


def test_held_whatever_else_refuses_it(held: Changing, monkeypatch: pytest.MonkeyPatch) -> None:
    """Locked when the scan came by, which is not what keeps it."""
    locked = held.context.layout.flag("locked")
    held.write("flags", add=locked)
    record = held.record(since(READS, "flags", add=-locked), monkeypatch)
    assert record["reason"] == "locked"
    assert (record["confirmed"], record["confirmed_extra"]) == ("persistent", 1)


def test_how_much_stays(held: Changing, monkeypatch: pytest.MonkeyPatch) -> None:
    """The least of all looks; nothing is said of what is gone."""
    held.write("refcount", add=2)
    assert held.record(nothing, monkeypatch)["confirmed_extra"] == 3
    assert held.record(since(READS, "refcount", add=-1), monkeypatch)["confirmed_extra"] == 2
    assert held.record(since(READS, "refcount", add=1), monkeypatch)["confirmed_extra"] == 2
    assert held.record(since(READS, "index", add=1), monkeypatch)["confirmed_extra"] is None


def test_forked_but_held_is_persistent(held: Changing, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the surplus that counts, not the references."""

    def fork(held: Changing, reads: int) -> None:
        if reads == READS:
            held.write("refcount", add=1)
            held.map(1)

    assert held.label(fork, monkeypatch) == "persistent"


def test_freed_is_gone(held: Changing, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever comes after."""

    def free(held: Changing, reads: int) -> None:
        held.restore()
        if reads == READS:
            held.free()

    assert held.label(free, monkeypatch) == "gone"


@pytest.mark.parametrize("fact", ["mapping", "index", "memcg_data"])
def test_another_folio_with_the_same_surplus_is_gone(
    held: Changing, fact: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Freed and allocated again, for another process, address or cgroup."""
    if fact == "memcg_data" and fact not in held.context.layout.fields:
        fact = "mem_cgroup"
    assert held.label(since(READS, fact, add=1 << 20), monkeypatch) == "gone"


def test_part_of_another_folio_is_gone(held: Changing, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first page is a tail."""
    head = held.context.layout.vmemmap + (held.pfn - 512) * held.size | 1
    assert held.label(since(READS, "compound_word", value=head), monkeypatch) == "gone"


def test_unplugged_is_gone(held: Changing, monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory map itself went away: for good, not for a moment."""

    def unplug(held: Changing, reads: int) -> None:
        held.unreadable = reads >= READS

    assert held.label(unplug, monkeypatch) == "gone"

    def hide(held: Changing, reads: int) -> None:
        held.unreadable = reads == READS + 1

    held.restore()
    assert held.label(hide, monkeypatch) == "persistent"


def test_contradictory_all_the_time_is_transient(held: Changing, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be said but that it changes: more mappings than references."""

    def contradict(held: Changing, reads: int) -> None:
        if reads == READS:
            held.map(5)

    record = held.record(contradict, monkeypatch)
    assert (record["confirmed"], record["confirmed_extra"]) == ("transient", None)


def test_truncated_is_not_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file's page that is held outlives its file."""
    file = Changing.of(ALL[1], "ext4_held")
    assert file.label(since(READS, "mapping", value=0), monkeypatch) == "transient"


def test_interrupted(held: Changing, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folios are still listed, without a label."""

    def interrupt(held: Changing, reads: int) -> None:
        if reads == READS:
            raise KeyboardInterrupt

    record, summary, report = held.records(interrupt, monkeypatch)
    assert record["confirmed"] is record["confirmed_extra"] is None
    assert any("not looked at again" in what for what in report.incomplete)
    assert summary["incomplete"]


def test_too_many_are_counted(held: Changing, monkeypatch: pytest.MonkeyPatch) -> None:
    """What there is no room for has no label."""
    monkeypatch.setattr(confirm, "MAX_SUSPECTS", 0)
    record, _, report = held.records(nothing, monkeypatch)
    assert record["confirmed"] is record["confirmed_extra"] is None
    assert report.totals.unconfirmed > 0


def test_a_dump_is_not_looked_at_again(capsys: pytest.CaptureFixture[str]) -> None:
    """A clear message from both commands."""
    for command in ("report", "refused"):
        assert main([command, "-c", str(ALL[1].core), "--no-default-symbols", "--confirm", "2"]) == 3
        assert "a dump does not change" in capsys.readouterr().err


def test_numbers_that_make_no_sense(held: Changing) -> None:
    """Neither no look, nor endless ones, nor no time at all."""
    for looks in (Looks(0, 1), Looks(1, -1), Looks(1, math.nan), Looks(1, math.inf), Looks(1 << 30, 1)):
        with pytest.raises(BadArgument):
            Report(held.context, Question([], looks=looks))


def test_text(held: Changing, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A column, and a line below the table."""
    monkeypatch.setattr("drgn_thp.cli.report.open_context", lambda arguments: (Opened(), held.context))
    arguments = ["report", "-k", "--block", str(held.block), "--confirm", "2", "--interval", "0", "--path", "contig"]
    assert main(arguments) == 1
    out = capsys.readouterr().out
    assert "persistent" in out
    assert re.search(r"^looked at 2 times more, 0 s apart: \d+ persistent \([1-9]\d* held\), 0 tr", out, re.MULTILINE)
    assert main([*arguments, "--format", "ndjson"]) == 1
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {record["confirmed"] for record in records if record["kind"] == "folio"} == {"persistent"}


class Opened:
    """What the command line asks of a target."""

    types_source = ""
    notes: tuple[str, ...] = ()
    slim = None


def test_every_label_is_documented() -> None:
    """The words are part of the schema."""
    assert [label.value for label in Label] == ["persistent", "transient", "gone"]
