# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The main job, through the real command: which folios of the workload would alloc_contig_range() be refused?

What should be listed is known from the workload (what it holds), from the guest's own flags, and from the page tables
of its processes; nothing of it from the package.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy
import pytest

from drgn_thp.cli import main

from .opened import Opened, arguments_of

pytestmark = pytest.mark.vm

Record = dict[str, Any]
KPF_ANON, KPF_SWAPCACHE, KPF_COMPOUND_HEAD, KPF_HUGE, KPF_THP = (1 << bit for bit in (12, 13, 15, 17, 22))


def workload_blocks(opened: Opened) -> list[str]:
    """Return the option that asks for the memory blocks which hold nothing but the workload."""
    pfns = opened.dump.hotplug_pfns
    return ["--block", f"{pfns.start << 12:#x}-{(pfns.stop << 12) - 1:#x}"]


def run(opened: Opened, output: Path, form: str, *options: str) -> tuple[int, str]:
    """Run the command, and return its status and what it wrote."""
    arguments = ["report", *arguments_of(opened.dump), "--path", "contig", "--format", form, "--output", str(output)]
    status = main([*arguments, *options])
    return status, output.read_text()


@pytest.fixture(scope="session")
def report(opened: Opened, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, tuple[Record, ...]]:
    """Status and records of the report on the blocks of the workload."""
    output = tmp_path_factory.mktemp("contig") / "report"
    status, text = run(opened, output, "ndjson", *workload_blocks(opened))
    return status, tuple(json.loads(line) for line in text.splitlines())


def listed(records: tuple[Record, ...]) -> dict[int, Record]:
    """Return the refused folios of a report by their head."""
    folios = [record for record in records if record["kind"] == "folio"]
    result = {record["pfn"]: record for record in folios}
    assert len(result) == len(folios), "a folio is listed twice"
    return result


def heads_with(opened: Opened, wanted: int, unwanted: int = 0) -> set[int]:
    """Return the folios of the workload's blocks by the flags that the guest itself read of their head."""
    flags, first = opened.dump.kpageflags, opened.dump.hotplug_pfns.start
    bits = flags[first:]
    match = ((bits & numpy.uint64(wanted)) == wanted) & ((bits & numpy.uint64(unwanted)) == 0)
    return {first + i for i in numpy.flatnonzero(match).tolist()}


def mapped_by_ptes(opened: Opened) -> set[int]:
    """
    Return the anonymous THPs of which some process maps a page by itself.

    Those in the swap cache are left out: they have a mapping, and so the check at issue does not look at them.
    """
    thps = heads_with(opened, KPF_COMPOUND_HEAD | KPF_THP | KPF_ANON, KPF_SWAPCACHE | KPF_HUGE)
    return {head for head in thps if any(opened.mapped.ptes[pfn] for pfn in range(head, head + 512))}


def held_here(opened: Opened) -> set[int]:
    return {head for head in opened.held if head in opened.dump.hotplug_pfns}


def test_exactly_the_held_folios_are_refused(opened: Opened, report: tuple[int, tuple[Record, ...]]) -> None:
    """Must show 1: what the workload holds, and beside it only what 5.10 is known to refuse."""
    status, records = report
    refused = listed(records)
    expected = held_here(opened)
    assert len(expected) >= 6, "the workload holds a base page, THPs, file pages and a hugetlb page"
    if opened.version < (5, 13):
        # It learned to move hugetlb pages in v5.13.
        expected |= heads_with(opened, KPF_COMPOUND_HEAD | KPF_HUGE)
    if opened.version < (6, 1):
        expected |= mapped_by_ptes(opened)
    assert set(refused) == expected, {
        "not reported": [hex(pfn) for pfn in sorted(expected - set(refused))],
        "reported": [refused[pfn] for pfn in sorted(set(refused) - expected)],
    }
    assert status == 1


def test_wrongly_refused_folios_are_those_mapped_by_ptes(
    opened: Opened, report: tuple[int, tuple[Record, ...]]
) -> None:
    """The bug that the whole thing began with: nobody holds these THPs, and the report must say that."""
    refused = listed(report[1])
    wrongly = {pfn for pfn, record in refused.items() if record["wrongly_refused"]}
    racy = {pfn for pfn, record in refused.items() if record["reason"] == "racy-pin-check"}
    assert wrongly == racy
    if opened.version >= (6, 1):
        assert not wrongly
        return
    expected = mapped_by_ptes(opened) - held_here(opened)
    assert len(expected) >= 6, "the workload maps THPs by PTEs in many ways"
    assert wrongly == expected
    for pfn in wrongly:
        assert refused[pfn]["extra"] == 0, refused[pfn]
        assert refused[pfn]["total_mapcount"] == opened.mapped.total(pfn, 9)


def test_held_folios_have_one_reference_too_many(opened: Opened, report: tuple[int, tuple[Record, ...]]) -> None:
    """The right folio for the wrong reason would send people after the wrong culprit."""
    refused = listed(report[1])
    for pfn in held_here(opened):
        record = refused[pfn]
        reasons = [record["reason"], *record["also"]]
        huge = record["type"] == "hugetlb"
        assert reasons == (
            ["hugetlb-contig", "extra-reference"] if huge and opened.version < (5, 13) else ["extra-reference"]
        ), record
        assert (record["extra"], record["pins"]) == (1, 0), record
        if not (huge and opened.version < (5, 13)):
            # Isolation looks at references only where there is no mapping; all others get as far as the move.
            function = (
                "folio_migrate_mapping()" if record["mapping"] != "anon" or huge else "isolate_migratepages_block()"
            )
            assert record["check"].startswith(function), record


def test_blocks_and_summary_count_what_is_listed(opened: Opened, report: tuple[int, tuple[Record, ...]]) -> None:
    """The table of blocks is what people look at first."""
    records = report[1]
    refused = listed(records)
    blocks = [record for record in records if record["kind"] == "block"]
    covered = sorted((block["start_pfn"], block["end_pfn"]) for block in blocks)
    pfns = opened.dump.hotplug_pfns
    assert covered[0][0] == pfns.start
    assert covered[-1][1] == pfns.stop
    assert all(end == start for (_, end), (start, _) in zip(covered, covered[1:]))
    for block in blocks:
        inside = [r for pfn, r in refused.items() if block["start_pfn"] <= pfn < block["end_pfn"]]
        counts = block["paths"]["contig"]
        assert counts["refused"] == len(inside) == sum(counts["reasons"].values())
        assert counts["refused_pages"] == sum(1 << record["order"] for record in inside)
        assert counts["verdict"] == ("no" if inside else "yes")
        assert (block["zones"], block["nodes"], block["state"]) == (["MOVABLE"], [1], "online")
        assert all(record["block"] == block["block"] for record in inside)
    summary = records[-1]
    assert summary["kind"] == "summary"
    assert summary["refused"] == {"contig": len(refused)}
    assert summary["incomplete"] == []


@pytest.mark.parametrize("form", ["text", "json"])
def test_other_formats_list_the_same(
    opened: Opened, report: tuple[int, tuple[Record, ...]], tmp_path: Path, form: str
) -> None:
    """Three renderers, one answer."""
    status, text = run(opened, tmp_path / form, form, *workload_blocks(opened))
    assert status == report[0]
    if form == "json":
        assert json.loads(text) == list(report[1])
        return
    table = text.partition("refused on contig:\n")[2].partition("\n\n")[0].splitlines()
    rows = {int(line.split()[0], 16): line.split()[2] for line in table if line.startswith("0x") or " 0x" in line[:12]}
    assert rows == {pfn: record["reason"] for pfn, record in listed(report[1]).items()}


def test_blocks_by_number_and_by_address_are_the_same(
    opened: Opened, report: tuple[int, tuple[Record, ...]], tmp_path: Path
) -> None:
    """As /sys/devices/system/memory numbers them, and as /proc/iomem shows them."""
    numbers = [record["block"] for record in report[1] if record["kind"] == "block"]
    status, text = run(opened, tmp_path / "by-number", "ndjson", "--block", f"{min(numbers)}-{max(numbers)}")
    assert (status, tuple(json.loads(line) for line in text.splitlines())) == report


def test_nothing_in_all_of_memory_is_held_but_by_the_workload(opened: Opened, tmp_path: Path) -> None:
    """
    Outside of the workload's blocks as well, extra references and wrong refusals are only where they were planted.

    Held pages of the kernel's own (in a pipe, in a socket) are refused, too, but not for their references.
    """
    reasons = ("extra-reference", "dma-pinned", "missing-reference", "racy-pin-check", "kernel-page")
    only = [option for reason in reasons for option in ("--only", reason)]
    status, text = run(opened, tmp_path / "all", "ndjson", *only)
    refused = listed(tuple(json.loads(line) for line in text.splitlines()))
    kernel = {pfn for pfn, marks in opened.held.items() if marks[0].kind == "kernel"}
    assert kernel
    assert {refused[pfn]["reason"] for pfn in kernel} == {"kernel-page"}
    others = {pfn for pfn, record in refused.items() if record["reason"] != "kernel-page"}
    huge = heads_with(opened, KPF_COMPOUND_HEAD | KPF_HUGE) if opened.version < (5, 13) else set()
    ptes = mapped_by_ptes(opened) if opened.version < (6, 1) else set()
    assert others == (set(opened.held) - kernel - huge) | ptes
    assert status == 1
