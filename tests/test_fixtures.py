# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Readers, formulas, gates and commands on the memory of real kernels, with nothing but this checkout.

What should come out is from others: the guest's own /proc files, drgn's helpers with DWARF, and the program in the
guest, which knows what it did with which page.
"""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy
import pytest
from drgn.helpers.linux.mm import pfn_to_page

from drgn_thp import formulas, helpers
from drgn_thp.cli import main
from drgn_thp.context import Context
from drgn_thp.folios import Folios
from drgn_thp.gates import paths
from drgn_thp.rows import concatenate

from .fixture import ALL, BUNDLED, EACH, Fixture
from .tree import ROOT

Record = dict[str, Any]
MAX_BYTES = 6_000_000
KPF = {"locked": 0, "dirty": 4, "lru": 5, "active": 6, "swapbacked": 14, "unevictable": 18}
KPF_BUDDY, KPF_ANON, KPF_SWAPCACHE, KPF_HEAD, KPF_TAIL, KPF_HUGE, KPF_KSM, KPF_THP = 10, 12, 13, 15, 16, 17, 21, 22


@pytest.fixture(scope="module", params=EACH)
def fixture(request: pytest.FixtureRequest) -> Fixture:
    """Each kernel, opened once."""
    assert isinstance(request.param, Fixture)
    return request.param


def run(*arguments: str) -> tuple[int, str, str]:
    """Run the command as users do."""
    command = [sys.executable, "-m", "drgn_thp", *arguments]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return result.returncode, result.stdout, result.stderr


def report_arguments(fixture: Fixture, form: str) -> list[str]:
    options = ("--path", "contig", "--block", fixture.blocks, "--format", form)
    return ["report", *fixture.arguments(), *options]


@cache
def report(fixture: Fixture) -> tuple[int, str]:
    """Return status and text of the report on the movable memory."""
    status, out, err = run(*report_arguments(fixture, "ndjson"))
    assert err == ""
    return status, out


def records(fixture: Fixture) -> list[Record]:
    return [json.loads(line) for line in report(fixture)[1].splitlines()]


def listed(fixture: Fixture) -> dict[int, Record]:
    return {record["pfn"]: record for record in records(fixture) if record["kind"] == "folio"}


@cache
def movable(fixture: Fixture) -> Folios:
    """Return all folios of the movable memory as a table."""
    context, memmap = fixture.context, fixture.context.memmap
    parts = []
    for pfn in range(fixture.node1.start, fixture.node1.stop, memmap.pages_per_chunk):
        chunk = memmap.read(pfn, min(memmap.pages_per_chunk, fixture.node1.stop - pfn))
        parts.append(memmap.rows(chunk, memmap.live(chunk).rows))
    return context.folios(concatenate(parts))


def test_small_and_complete(fixture: Fixture) -> None:
    """Nothing is missing that a report asks for, and a clone does not take long."""
    assert fixture.core.stat().st_size < MAX_BYTES
    assert fixture.target.release == fixture.release
    assert fixture.target.types_source == "BTF in the dump"
    assert fixture.target.slim == f"all memory blocks of Linux {fixture.release}, written by drgn_thp"
    summary = records(fixture)[-1]
    assert (summary["kind"], summary["release"], summary["incomplete"]) == ("summary", fixture.release, [])


def test_exactly_the_held_folios_are_refused(fixture: Fixture) -> None:
    """The main job: what the program in the guest holds, each by its scenario, and nothing beside it."""
    refused = {pfn: record["reason"] for pfn, record in listed(fixture).items()}
    assert refused == dict.fromkeys(fixture.held(), "extra-reference")
    scenarios = {"base_held", "thp_held", "thp_cow_held", "tmpfs_thp_held", "hugetlb_held", "ext4_held"}
    assert scenarios <= set(fixture.held().values())
    assert report(fixture)[0] == 1
    assert {record["extra"] for record in listed(fixture).values()} == {1}


def test_flags_are_those_of_the_guest(fixture: Fixture) -> None:
    """Every folio of the movable memory, by /proc/kpageflags."""
    f = movable(fixture)
    theirs = fixture.kpageflags[f.pfn - fixture.node1.start]

    def bit(number: int) -> Any:
        return (theirs >> numpy.uint64(number) & numpy.uint64(1)) != 0

    used = ~formulas.is_free(f)
    typed = formulas.is_user(f) & ~formulas.PageHuge(f) & used
    assert typed.sum() > 150
    for name, number in KPF.items():
        # The guest looked page by page: what runs beside it may have touched one.
        assert (getattr(f, name) == bit(number))[typed].mean() > 0.99, name
    assert (formulas.PageAnon(f) == bit(KPF_ANON))[typed].all()
    # Some kernels (6.12) say of all anonymous pages that they are KSM's.
    assert bit(KPF_KSM)[formulas.PageKsm(f)].all()
    ksm = {mark.head for mark in fixture.marks if mark.scenario == "ksm"}
    assert set(f.pfn[formulas.PageKsm(f)].tolist()) == ksm
    assert (formulas.folio_test_swapcache(f) == bit(KPF_SWAPCACHE))[typed].all()
    assert (formulas.PageHuge(f) == bit(KPF_HUGE))[used].all()
    assert ((f.order > 0) == bit(KPF_HEAD))[used].all()
    assert not bit(KPF_TAIL)[used].any()
    assert ((f.order == 9) & typed == bit(KPF_THP) & (f.order == 9))[typed].all()


def test_every_page_in_use_is_in_a_folio(fixture: Fixture) -> None:
    """The bulk decoder must not step over anything: heads of the guest are ours, and tails are inside of them."""
    f = movable(fixture)
    flags = fixture.kpageflags
    heads = set((numpy.flatnonzero(flags >> numpy.uint64(KPF_HEAD) & numpy.uint64(1)) + fixture.node1.start).tolist())
    assert heads == set(f.pfn[f.order > 0].tolist())
    tails = int((flags >> numpy.uint64(KPF_TAIL) & numpy.uint64(1)).sum())
    assert tails == int(((1 << f.order[f.order > 0].astype(numpy.int64)) - 1).sum())


def test_map_counts_are_those_of_the_guest(fixture: Fixture) -> None:
    """By /proc/kpagecount, which counts the mappings of each page."""
    f = movable(fixture)
    small = (f.order == 0) & formulas.is_user(f)
    theirs = fixture.kpagecount[f.pfn - fixture.node1.start]
    assert (formulas.folio_mapcount(f)[small] == theirs[small]).all()
    assert small.sum() > 100


def test_facts_are_those_of_drgn(fixture: Fixture) -> None:
    """Heads, orders and references of pages of all of memory, through drgn's helpers and DWARF of the whole dump."""
    memmap = fixture.context.memmap
    assert len(fixture.helped) > 300
    for page in fixture.helped:
        f = memmap.folios(memmap.read_folio(page.pfn))
        found = (int(f.pfn[0]), int(f.order[0]), int(f.refcount[0]))
        assert found == (page.head, page.order, page.refcount), page
        for name in ("locked", "lru", "dirty", "swapbacked", "reserved", "unevictable"):
            assert bool(getattr(f, name)[0]) == (f"PG_{name}" in page.flags.split()), (page, name)


def test_helpers_agree_with_the_scan_and_with_drgn(fixture: Fixture) -> None:
    """At the prompt the same formulas run on a table of one row: on heads as on tails."""
    helped = {page.pfn: page for page in fixture.helped}
    f = movable(fixture)
    row_of = {pfn: row for row, pfn in enumerate(f.pfn.tolist())}
    columns = {
        name: getattr(formulas, name)(f)
        for name in ("folio_mapcount", "folio_expected_ref_count", "extra_references", "folio_maybe_dma_pinned")
    }
    marks = [mark for mark in fixture.marks if mark.head in fixture.node1]
    assert len(marks) > 200
    for mark in marks:
        page = pfn_to_page(fixture.prog, mark.pfn)
        for name, column in columns.items():
            assert getattr(helpers, name)(page) == column[row_of[mark.head]], (mark, name)
        assert helpers.folio_mapcount(page) == helped[mark.pfn].mapcount, mark
        # A mark of a held page that shares its folio with others says so of the folio.
        assert helpers.extra_references(page) >= mark.held, mark


def test_gates_by_scenario(fixture: Fixture) -> None:
    """Each path's word on folios whose state is known."""
    of = {mark.scenario: pfn_to_page(fixture.prog, mark.pfn) for mark in fixture.marks}
    verdict = helpers.migration_verdict
    for path in ("contig", "offline", "mbind-move-all"):
        assert verdict(of["thp_cow"], path) == "ok"
        assert verdict(of["thp_cow_held"], path) == "extra-reference"
    assert verdict(of["secretmem"], "contig") != "ok"
    assert verdict(of["pipe_page"], "offline") == "kernel-page"
    assert verdict(of["tmpfs_thp_mapped"], "contig") == "ok"
    assert verdict(of["mlocked_thp"], "contig") == "ok"


def test_old_check_refuses_what_nobody_holds(fixture: Fixture) -> None:
    """The bug of kernels before 6.1, asked for by hand."""
    f = movable(fixture)
    context = Context.of(fixture.prog, "old")
    path = paths()["contig"].of(context.kernel)
    f = context.folios(concatenate([context.memmap.read_folio(int(pfn)) for pfn in f.pfn[f.order == 9]]))
    verdicts = path.judge(f)
    wrongly = {
        int(f.pfn[row])
        for row, index in enumerate(verdicts.primary.tolist())
        if index >= 0 and verdicts.gates[index].wrongly
    }
    heads = {mark.head: mark.scenario for mark in fixture.marks}
    expected = {"thp_cow", "thp_cow_head", "thp_pte", "thp_pte_3procs", "thp_partial", "thp_partial_head"}
    assert {heads[pfn] for pfn in wrongly} == expected
    assert not wrongly & set(fixture.held())


# -- commands ----------------------------------------------------------------------------------------------------------


def test_formats_list_the_same(fixture: Fixture, capsys: pytest.CaptureFixture[str]) -> None:
    """Three renderers, one answer."""
    assert main(report_arguments(fixture, "json")) == 1
    assert json.loads(capsys.readouterr().out) == records(fixture)
    assert main(report_arguments(fixture, "text")) == 1
    text = capsys.readouterr().out
    assert text.startswith(f"Linux {fixture.release}, types from BTF in the dump\n")
    table = text.partition("refused on contig:\n")[2].partition("\n\n")[0].splitlines()[2:]
    assert {int(line.split()[0], 16): line.split()[2] for line in table} == {
        pfn: record["reason"] for pfn, record in listed(fixture).items()
    }
    blocks = [record for record in records(fixture) if record["kind"] == "block"]
    assert [(block["zones"], block["nodes"]) for block in blocks] == [(["MOVABLE"], [1])] * len(blocks)
    assert sum(block["paths"]["contig"]["refused"] for block in blocks) == len(listed(fixture))


def test_folio_command(fixture: Fixture, capsys: pytest.CaptureFixture[str]) -> None:
    """The balance of one folio, asked for by a tail page."""
    held = next(mark for mark in fixture.marks if mark.scenario == "thp_cow_held" and mark.pfn != mark.head)
    assert main(["folio", *fixture.arguments(), hex(held.pfn)]) == 1
    out = capsys.readouterr().out
    ledger = out.partition("references\n")[2].partition("\n\n")[0]
    lines = dict(line.rsplit(None, 1) for line in ledger.splitlines())
    assert (lines["mappings"], lines["UNEXPLAINED"], lines["refcount"]) == ("512", "1", "513")
    assert f"page {held.pfn - held.head} of the folio of 512 pages at {held.head:#x}" in out
    assert main(["folio", *fixture.arguments(), "--format", "ndjson", "--path", "contig", hex(held.pfn)]) == 1
    record = json.loads(capsys.readouterr().out)
    assert (record["pfn"], record["order"], record["reason"], record["extra"]) == (held.head, 9, "extra-reference", 1)


def test_exit_statuses(tmp_path: Path) -> None:
    """What scripts go by."""
    fixture = ALL[0]
    free = f"{(fixture.node1.stop - 1) << 12:#x}"
    assert run("report", *fixture.arguments(), "--path", "contig", "--block", free)[0] == 0
    assert run("report", *fixture.arguments(), "--block", "4000")[0] == 3
    status, out, err = run("report", "-c", str(tmp_path / "missing"))
    assert (status, out, err.count("\n")) == (3, "", 1)


def test_demo_names_what_was_planted() -> None:
    """From any directory, without a dump of one's own."""
    status, out, err = run("demo")
    assert (status, err) == (0, "")
    now, old = out.split("--racy-check old\n")
    for scenario in ("thp_held", "thp_cow_held", "tmpfs_thp_held", "hugetlb_held", "ext4_held"):
        assert f" {scenario} " in now
        assert f" {scenario} " in old
    assert " thp_cow " not in now
    (line,) = (line for line in old.splitlines() if " thp_cow " in line)
    assert line.split()[1:7] == ["9", "512", "512", "0", "racy-pin-check", "(wrongly)"]
    status, out, err = run("demo", "2.6")
    assert (status, out, err.count("\n")) == (3, "", 1)
    assert f"there are: {BUNDLED}" in err
