# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who maps a folio: against map counts, the guest's own marks, and drgn's page table walk; and damaged page tables."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from functools import partialmethod
from typing import Any

import numpy
import pytest
from drgn.helpers.linux.mm import follow_phys, vma_find
from drgn.helpers.linux.pid import find_task

from drgn_thp import formulas
from drgn_thp.context import Context
from drgn_thp.mappers import Mappers, find, find_mappers, reverse
from drgn_thp.mappers.decoder import State
from drgn_thp.mappers.trees import Reverse
from tests.vm.lab import ensure_dump
from tests.vm.matrix import KERNELS, Kernel
from tests.vm.scenes import SCENES

from .opened import Opened
from .overlay import Overlay

pytestmark = pytest.mark.vm

SCENE_NAMES = ("lab", "huge", "pins", "files")


@pytest.fixture
def damaged(overlay: Overlay) -> Iterator[Overlay]:
    """A dump to be damaged."""
    overlay.mend()
    yield overlay
    overlay.mend()


def user_pfns(opened: Opened) -> list[int]:
    """Return the heads of all folios that processes and files have."""
    f = opened.folios
    pfns: list[int] = f.pfn[(f.lru | formulas.PageHuge(f)) & formulas.is_user(f)].tolist()
    return pfns


@pytest.mark.parametrize("scene", SCENE_NAMES)
@pytest.mark.parametrize("entry", KERNELS, ids=lambda entry: entry.name)
def test_map_counts(entry: Kernel, scene: str) -> None:
    """The entries found for each folio are as many as its map count says."""
    opened = Opened(ensure_dump(entry, scene=next(s for s in SCENES if s.name == scene)))
    found = find_mappers(opened.context, user_pfns(opened))
    assert found.complete
    assert not found.failures
    heads, counts = found.counts()
    assert len(heads) > 1000
    f = opened.folios.select(numpy.array([opened.position[pfn] for pfn in heads.tolist()]))
    assert (counts == formulas.folio_mapcount(f)).all()
    assert counts.sum() > 2000
    mappings = [mapping for pfn in heads.tolist() for mapping in found.of(pfn)]
    assert all(mapping.tasks and mapping.vma is not None for mapping in mappings)
    if scene == "huge":
        assert any(mapping.shared for mapping in mappings)


def places(found: Mappers, wanted: numpy.ndarray[Any, Any]) -> list[tuple[int, ...]]:
    """Return every entry that was found of the folios wanted, but for who of those that share a table came first."""
    hits = found.hits
    keep = numpy.isin(hits.folio, wanted) & (hits.state != State.SPECIAL)
    columns = (hits.folio, hits.pfn, hits.shift, hits.state, hits.address, hits.owner, hits.table)
    return sorted(zip(*(column[keep].tolist() for column in columns)))


@pytest.mark.parametrize("scene", SCENE_NAMES)
@pytest.mark.parametrize("entry", KERNELS, ids=lambda entry: entry.name)
def test_reverse_mapping_agrees(entry: Kernel, scene: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Page tables and the reverse mapping say the same of every folio, and as often as its map count says."""
    opened = Opened(ensure_dump(entry, scene=next(s for s in SCENES if s.name == scene)))
    context, pfns = opened.context, user_pfns(opened)
    by_tables = find_mappers(context, pfns, reverse=False)
    monkeypatch.setattr(find, "_walk", None)  # it is not what answers in the end
    by_reverse = find_mappers(context, pfns, reverse=True)
    assert by_reverse.complete
    assert not by_reverse.failures
    everything = numpy.arange(len(by_tables.suspects))
    assert len(places(by_reverse, everything)) > 2000
    assert places(by_reverse, everything) == places(by_tables, everything)
    assert (by_reverse.counts()[1] == by_tables.counts()[1]).all()


def test_marks(opened: Opened) -> None:
    """Each page that the program marked is mapped where its pagemap said, in the VMA that drgn finds there."""
    marks = [mark for mark in opened.dump.marks if mark.vaddr]
    found = find_mappers(opened.context, [mark.pfn for mark in marks])
    assert len(marks) > 50
    for mark in marks:
        mine = [
            mapping
            for mapping in found.of(mark.pfn)
            if mark.pid in {task.pid for task in mapping.tasks}
            and mapping.address <= mark.vaddr < mapping.address + (mapping.pages << 12)
        ]
        assert len(mine) == 1, mark
        head = opened.head_by_guest(mark.pfn)
        assert head + mine[0].page + (mark.vaddr - mine[0].address >> 12) == mark.pfn
        task = find_task(opened.prog, mark.pid)
        vma, expected = mine[0].vma, vma_find(task.mm, mark.vaddr)
        assert vma is not None
        assert (vma.address, vma.start, vma.end) == (int(expected), int(expected.vm_start), int(expected.vm_end))
        record = next(record for record in mine[0].records() if record["pid"] == mark.pid)
        assert (record["comm"], record["cgroup"]) == (task.comm.string_().decode(), "/")


def test_against_drgn(opened: Opened) -> None:
    """A sample of all that is found is what drgn finds at these addresses."""
    found = find_mappers(opened.context, user_pfns(opened))
    mappings = [(pfn, mapping) for pfn in found.suspects.start.tolist() for mapping in found.of(pfn)]
    for pfn, mapping in random.Random(1).sample(mappings, 200):
        task = find_task(opened.prog, mapping.tasks[0].pid)
        last = mapping.pages - 1
        assert int(follow_phys(task.mm, mapping.address)) >> 12 == pfn + mapping.page
        assert int(follow_phys(task.mm, mapping.address + (last << 12))) >> 12 == pfn + mapping.page + last


def test_caps(opened: Opened) -> None:
    """What is left out is counted."""
    pfns = user_pfns(opened)
    whole = find_mappers(opened.context, pfns)
    few = find_mappers(opened.context, pfns, max_tables=100)
    assert not few.complete
    assert few.tables == 100
    assert any("too many" in failure for failure in few.failures)
    some = find_mappers(opened.context, pfns, max_hits=500)
    assert len(some.hits) == 500
    assert f"mappers: {len(whole.hits) - 500} mappings were left out: there are too many" in some.failures


def find_again(damaged: Overlay, pfn: int) -> tuple[Mappers, float]:
    started = time.monotonic()
    found = find_mappers(Context.of(damaged.prog), [pfn])
    found.records(pfn)
    return found, time.monotonic() - started


def anonymous(damaged: Overlay) -> tuple[int, int]:
    """Return an anonymous page of one process, and the address of its anon_vma."""
    for mark in damaged.dump.marks:
        f = Context.of(damaged.prog).read_folio(mark.pfn)
        if mark.vaddr and formulas.PageAnon(f)[0] and not formulas.PageKsm(f)[0] and formulas.folio_mapcount(f)[0] == 1:
            return int(f.pfn[0]), int(f.mapping[0]) & ~3
    raise AssertionError("no such page")


def test_without_a_decoder(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of an architecture whose page tables are not known: the same pages, and it is said that more may be mapped."""
    pfns = random.Random(3).sample(user_pfns(opened), 60)
    known = find_mappers(opened.context, pfns, reverse=False)
    monkeypatch.setattr(find, "decoder_of", lambda prog: None)
    found = find_mappers(opened.context, pfns)
    assert not found.complete
    assert [failure for failure in found.failures if "no decoder" in failure] == found.failures

    def pages(mappers: Mappers) -> set[tuple[int, int, int]]:
        return {
            (mapping.mm, mapping.address + (i << 12), head + mapping.page + i)
            for head in mappers.suspects.start.tolist()
            for mapping in mappers.of(head)
            if mapping.state == "mapped"
            for i in range(mapping.pages)
        }

    assert len(pages(known)) > 30
    assert pages(found) == pages(known)


def test_the_way_is_chosen_by_what_is_quicker(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few folios where there are many page tables go by the reverse mapping; where that does not suffice, by tables."""
    asked: list[int] = []

    def find_reverse(*arguments: Any) -> Any:
        asked.append(1)
        return reverse.find_reverse(*arguments)

    monkeypatch.setattr(find, "find_reverse", find_reverse)
    pfns = [mark.pfn for mark in opened.dump.marks if mark.vaddr]
    find_mappers(opened.context, pfns[:5])
    assert not asked
    monkeypatch.setattr(reverse, "MANY_TABLES", 10)
    found = find_mappers(opened.context, pfns[:5])
    assert (len(asked), found.tables) == (1, 0)
    find_mappers(opened.context, user_pfns(opened))
    assert len(asked) == 1
    monkeypatch.setattr(Reverse, "__init__", partialmethod(Reverse.__init__, max_vmas=0))
    again = find_mappers(opened.context, pfns[:5])
    assert (len(asked), again.complete) == (2, True)
    assert again.tables > 0
    assert places(again, numpy.arange(5)) == places(found, numpy.arange(5))


def test_damaged_trees(damaged: Overlay) -> None:
    """Trees of VMAs without an end, that lead nowhere, or to anything: page tables tell in the end."""
    pfn, anon_vma = anonymous(damaged)
    context = Context.of(damaged.prog)
    known = find_mappers(context, [pfn], reverse=False)
    assert places(find_mappers(context, [pfn], reverse=True), numpy.arange(1)) == places(known, numpy.arange(1))
    root = anon_vma + damaged.prog.type("struct anon_vma").member("rb_root").bit_offset // 8
    node = damaged.prog.read_u64(root)
    left = damaged.prog.type("struct rb_node").member("rb_left").bit_offset // 8
    for address, value in ((node + left, node), (root, 0), (root, 8), (root, 1 << 63), (root, anon_vma), (root, root)):
        damaged.mend()
        damaged.write_u64(address, value)
        started = time.monotonic()
        found = find_mappers(Context.of(damaged.prog), [pfn], reverse=True)
        assert time.monotonic() - started < 20
        assert places(found, numpy.arange(1)) == places(known, numpy.arange(1))
        # The root taken for a node has the leftmost node where nodes have their right one.
        assert found.tables > 0 or value == root


def test_damaged_tables(damaged: Overlay) -> None:
    """Tables that lead to themselves, to one and the same, nowhere, or hold anything at all."""
    mark = next(mark for mark in damaged.dump.marks if mark.vaddr)
    top = damaged.physical(int(find_task(damaged.prog, mark.pid).mm.pgd))
    rng = random.Random(2)
    undamaged, _ = find_again(damaged, mark.pfn)
    assert undamaged.complete
    for entries in (
        [top | 0x67] * 256,
        [mark.pfn << 12 | 0x67] * 256,
        [rng.getrandbits(64) for _ in range(256)],
        [rng.randrange(1 << 17) << 12 | 0x67 for _ in range(256)],
        [1 << 50 | 0x67] * 256,
    ):
        damaged.mend()
        damaged.write_physical(top, b"".join(entry.to_bytes(8, "little") for entry in entries))
        found, seconds = find_again(damaged, mark.pfn)
        assert seconds < 20
        assert found.tables < 200_000
    assert not found.complete
    assert any("no memory is" in failure for failure in found.failures)
    damaged.mend()
    damaged.make_unreadable(top >> 12)
    found, _ = find_again(damaged, mark.pfn)
    assert "mappers: 1 page tables could not be read" in found.failures
