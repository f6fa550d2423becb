# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The lab tells the truth: every state is there on every kernel, and guest, dump and workload agree about it.

All else that is tested on these dumps rests on that.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from drgn import Program
from drgn.helpers.linux.mm import follow_phys
from drgn.helpers.linux.pid import find_task

from . import view
from .lab import UNREAD, Dump, Mark, ensure_dump
from .matrix import KERNELS, Kernel

pytestmark = pytest.mark.vm

PAGE_SIZE = 4096
# Bits of /proc/kpageflags, which is ABI.
KPF_LRU, KPF_ANON, KPF_SWAPCACHE, KPF_HUGE, KPF_THP = (1 << bit for bit in (5, 12, 13, 17, 22))


@dataclass(frozen=True)
class State:
    """What a scenario promises of the folio of its first mark. None: differs between kernels."""

    order: int = 0
    refcount: int | None = None
    mapcount: int | None = None
    entire_mapcount: int = 0


# The worked examples of the kernels' arithmetic: R references, M mappings.
STATES = {
    "base": State(0, 1, 1),
    "base_forked": State(0, 2, 2),
    "base_held": State(0, 1, 1),  # the neighbour of the one that is held
    "thp_pmd": State(9, 1, 1, 1),
    "thp_forked": State(9, 2, 2, 2),
    "thp_cow": State(9, 512, 512, 1),
    "thp_cow_head": State(9, 512, 512, 1),
    "thp_cow_held": State(9, 513, 512, 1),
    "thp_pte": State(9, 512, 512),
    "thp_pte_3procs": State(9, 1536, 1536),
    "thp_partial": State(9, 256, 256),
    "thp_partial_head": State(9, 511, 511),
    "thp_held": State(9, 2, 1, 1),
    "mlocked_base": State(0, 1, 1),
    "mlocked_thp": State(9, 1, 1, 1),
    "mthp": State(4, 16, 16),
    "mthp_held": State(4, 17, 16),
    "tmpfs_mapped": State(0, 2, 1),
    "tmpfs_unmapped": State(0, 1, 0),
    "tmpfs_thp_mapped": State(9, 513, 1, 1),
    "tmpfs_thp_unmapped": State(9, 512, 0),
    "tmpfs_thp_pte": State(9, 768, 256),
    "tmpfs_thp_held": State(9, 514, 1, 1),
    "ext4_clean_mapped": State(0, 3, 1),
    "ext4_clean_unmapped": State(0, 2, 0),
    "ext4_dirty_mapped": State(0, 3, 1),
    "ext4_dirty_unmapped": State(0, 2, 0),
    "ext4_read_mapped": State(0, 2, 1),
    "ext4_read_unmapped": State(0, 1, 0),
    "ramfs_mapped": State(0, 2, 1),
    "ramfs_unmapped": State(0, 1, 0),
    "swapcache_base": State(0, 2, 1),
    "swapcache_shared": State(0, 2, 1),
    "swapcache_unmapped": State(0, 1, 0),
    "swapcache_thp": State(9),  # newer kernels map all of it at the first touch
    "swapcache_thp_unmapped": State(9, 512, 0),
    "ksm": State(0, 4, 4),
    "hugetlb": State(9, 1, 1, 1),
    "hugetlb_held": State(9, 2, 1, 1),
    "hugetlb_free": State(9, 0, 0),
    "secretmem": State(0, 2, 1),
    "pipe_page": State(0, 1, 0),
    "fresh": State(0, 2, 1),
}


@pytest.fixture(scope="module", params=KERNELS, ids=lambda entry: entry.name)
def entry(request: pytest.FixtureRequest) -> Kernel:
    """Each kernel of the matrix in turn."""
    kernel: Kernel = request.param
    return kernel


@pytest.fixture(scope="module")
def dump(entry: Kernel) -> Dump:
    """The dump of that kernel. What cannot be made fails; nothing is skipped."""
    return ensure_dump(entry)


@pytest.fixture(scope="module")
def prog(dump: Dump) -> Program:
    """The dump, opened."""
    program = Program()
    program.set_core_dump(str(dump.vmcore))
    program.load_debug_info([str(dump.vmlinux)])
    return program


def in_mm(dump: Dump) -> list[Mark]:
    """Return the marks of pages that mm accounts for, unlike those that the kernel allocated for itself."""
    return [mark for mark in dump.marks if mark.kind != "kernel"]


def test_pfns_match_page_tables(dump: Dump, prog: Program) -> None:
    """The guest's pagemap, and the page tables in the dump."""
    for mark in dump.marks:
        if mark.vaddr:
            mm = find_task(prog, mark.pid).mm
            assert int(follow_phys(mm, mark.vaddr)) // PAGE_SIZE == mark.pfn, mark


def test_references_are_those_planted(dump: Dump, prog: Program) -> None:
    """What mm does not explain is held by the workload, and nothing else holds anything."""
    for mark in in_mm(dump):
        folio = view.folio(prog, mark.pfn)
        in_batch = mark.scenario == "fresh"
        assert folio.surplus == mark.held + in_batch, (mark, folio)


@pytest.mark.parametrize("scenario", sorted(STATES))
def test_state(entry: Kernel, dump: Dump, prog: Program, scenario: str) -> None:
    """Each scenario came out as the state that it is named after."""
    if scenario in entry.lacks:
        assert scenario in dump.lacks
        return
    promised = STATES[scenario]
    mark = next(mark for mark in dump.marks if mark.scenario == scenario)
    folio = view.folio(prog, mark.pfn)
    assert (folio.order, folio.entire_mapcount) == (promised.order, promised.entire_mapcount), (mark, folio)
    assert promised.refcount in (None, folio.refcount), (mark, folio)
    assert promised.mapcount in (None, folio.mapcount), (mark, folio)


def test_flags(dump: Dump, prog: Program) -> None:
    """Swap cache, KSM, locked and not yet on the LRU: what makes a state is in the flags, too."""
    for mark in in_mm(dump):
        folio = view.folio(prog, mark.pfn)
        copied = mark.note == "copy"
        assert folio.ksm == (mark.kind == "ksm"), (mark, folio)
        assert folio.swapcache == (mark.scenario.startswith("swapcache_") and not copied), (mark, folio)
        assert ("PG_mlocked" in folio.flags) == mark.scenario.startswith("mlocked_"), (mark, folio)
        if mark.kind not in {"hugetlb", "secretmem"}:
            assert ("PG_lru" in folio.flags) == (mark.scenario != "fresh"), (mark, folio)
        if mark.scenario.startswith("ext4_"):
            written = mark.scenario.startswith(("ext4_clean", "ext4_dirty", "ext4_large"))
            dirty = mark.scenario.startswith(("ext4_dirty", "ext4_large"))
            assert ("PG_private" in folio.flags) == written, (mark, folio)
            assert ("PG_dirty" in folio.flags) == dirty, (mark, folio)


def test_old_kernels_see_more_references_than_mappings_of_one_page(dump: Dump, prog: Program) -> None:
    """The case that made virtio-mem fail: all references are mappings, but not all are mappings of the first page."""
    (head,) = {mark.pfn for mark in dump.marks if mark.scenario == "thp_cow" and mark.index == 0}
    folio = view.folio(prog, head)
    assert folio.refcount == folio.mapcount > int(dump.kpagecount[head])


def test_swap_cache_costs_a_reference_per_page(dump: Dump, prog: Program) -> None:
    """Mapped or not."""
    for scenario in ("swapcache_thp", "swapcache_thp_unmapped"):
        mark = next(mark for mark in dump.marks if mark.scenario == scenario)
        folio = view.folio(prog, mark.pfn)
        assert folio.refcount == folio.mapcount + folio.nr_pages


def test_kpage_arrays(dump: Dump, prog: Program) -> None:
    """The guest's own look at all pages is of the same instant as the dump, and was found at the right place in it."""
    for mark in dump.marks:
        folio = view.folio(prog, mark.pfn)
        flags = int(dump.kpageflags[mark.pfn])
        assert flags != UNREAD
        if mark.kind == "hugetlb":
            assert flags & KPF_HUGE, (mark, hex(flags))
            continue
        if mark.kind in {"anon-thp", "shmem-thp"}:
            assert flags & KPF_THP, (mark, hex(flags))
        assert bool(flags & KPF_ANON) == folio.anon, (mark, folio, hex(flags))
        # Newer kernels say it of the head only.
        if mark.pfn == folio.head:
            assert bool(flags & KPF_LRU) == ("PG_lru" in folio.flags), (mark, folio, hex(flags))
            assert bool(flags & KPF_SWAPCACHE) == folio.swapcache, (mark, folio, hex(flags))
    ram = dump.kpageflags != UNREAD
    assert len(dump.kpageflags) == len(dump.kpagecount)
    assert ram[dump.hotplug_pfns.start : dump.hotplug_pfns.stop].all()
    assert not ram[: dump.hotplug_pfns.start].all()


def test_map_counts_add_up(dump: Dump, prog: Program) -> None:
    """The guest counts the mappings of each page; a PMD counts for each page there, and once in the folio."""
    for mark in in_mm(dump):
        folio = view.folio(prog, mark.pfn)
        pages = dump.kpagecount[folio.head : folio.head + folio.nr_pages]
        total = int(pages.sum()) - folio.entire_mapcount * (folio.nr_pages - 1)
        assert total == folio.mapcount, (mark, folio)


def test_movable_memory_is_on_the_hotplugged_node(dump: Dump) -> None:
    """All that can be there, is there; what the kernel itself allocates, or may not move, is not."""
    elsewhere = {"ramfs_mapped", "ramfs_unmapped", "secretmem", "pipe_page", "socket_page"}
    for mark in dump.marks:
        assert (mark.pfn in dump.hotplug_pfns) == (mark.scenario not in elsewhere), mark


def test_kernel_pages_belong_to_nobody(dump: Dump, prog: Program) -> None:
    """The pages found by their content are live, and no part of mm has them."""
    for mark in dump.marks:
        if mark.kind == "kernel":
            folio = view.folio(prog, mark.pfn)
            assert (folio.refcount > 0, folio.mapcount, folio.mapping) == (True, 0, 0), (mark, folio)
            assert "PG_lru" not in folio.flags
