# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Every column against a reader that is not ours: drgn, the guest's own /proc files, and the page tables.

Bulk scan and one-folio helpers share the decoder, so that they would agree on a wrong column; only these tests would
not.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

import numpy
import pytest
from drgn import Object, TypeKind, cast, offsetof
from drgn.helpers.linux.mm import (
    PageHead,
    PageTail,
    compound_head,
    compound_order,
    follow_phys,
    page_to_pfn,
    page_to_virt,
    pfn_to_page,
)
from drgn.helpers.linux.mmzone import for_each_online_pgdat

from drgn_thp import formulas, helpers
from drgn_thp.folios import Column
from drgn_thp.ledger import parse_page
from drgn_thp.pagetype import PageType

from .kpageflags import KPF, Pages, compared, expected_flags, names
from .opened import Opened

pytestmark = pytest.mark.vm

# What the kernel may take and give back while pid 1 prints its last lines. In pages; it is 72 at most.
CHANGED_MEANWHILE = 256
# Free pages that a CPU may take for its list at once, and does on a busy machine: 63, times 2^5 since c0a242394cb9
# ("mm, page_alloc: scale the number of pages that are batch allocated") (v6.7).
BATCH_OF_FREE_PAGES = 63 << 5


@pytest.fixture(scope="module")
def pages(opened: Opened) -> Pages:
    """Every struct page of the dump."""
    return Pages(opened)


def shown(pfns: Iterable[int]) -> list[str]:
    return [hex(pfn) for pfn in list(pfns)[:20]]


# -- which folios there are --------------------------------------------------------------------------------------------


def plain_columns(opened: Opened) -> tuple[Column, Column, Column, Column]:
    """
    Return page frame, reference count, tail bit and type word of every struct page that drgn calls valid.

    Where the members lie is asked of drgn, member by member: nothing of the package's layout is used.
    """
    prog, page = opened.prog, opened.prog.type("struct page")
    assert page.size is not None
    word = "compound_info" if page.has_member("compound_info") else "compound_head"
    places = [offsetof(page, "_refcount"), offsetof(page, word), offsetof(page, "page_type")]
    parts = []
    for start, end in opened.context.sections.runs():
        data = prog.read(pfn_to_page(prog, start).value_(), (end - start) * page.size)
        columns = [
            numpy.ndarray((end - start,), dtype, data, place, (page.size,))
            for place, dtype in zip(places, ("<i4", "<u8", "<u4"))
        ]
        parts.append((numpy.arange(start, end), columns[0], (columns[1] & 1) != 0, columns[2]))
    return tuple(numpy.concatenate(column) for column in zip(*parts))  # type: ignore[return-value]


def is_free_block(opened: Opened, type_word: Column) -> Column:
    """Return which type words are those of the first page of a free block (PG_buddy, PGTY_buddy)."""
    if opened.version >= (6, 12):
        return type_word >> 24 == 0xF0
    return (type_word & 0xF0000080) == 0xF0000000


def test_every_folio_is_a_row(opened: Opened) -> None:
    """A folio that the first look at a chunk passes over is never judged, and nothing would tell."""
    pfn, refcount, tail, type_word = plain_columns(opened)
    found = numpy.isin(pfn, opened.folios.pfn)
    assert not (tail & found).any(), shown(pfn[tail & found])
    # Slab has a type, but no references since v6.15; free hugetlb folios have neither on old kernels.
    typed = type_word.astype(numpy.int32) < -128
    free = is_free_block(opened, type_word)
    flags, known = opened.guest(pfn, opened.dump.kpageflags)
    huge = known & ((flags >> KPF["HUGE"]) & (flags >> KPF["COMPOUND_HEAD"]) & 1 != 0)
    used = ~tail & ~free & ((refcount > 0) | typed | huge)
    assert not (used & ~found).any(), shown(pfn[used & ~found])
    superfluous = found & ~used & ~free
    assert not superfluous.any(), shown(pfn[superfluous])
    assert (numpy.diff(opened.folios.pfn) > 0).all()
    assert huge.any()


def test_nothing_is_a_row_twice(opened: Opened) -> None:
    """Folios do not overlap, and no folio begins within another."""
    f = opened.folios
    ends = f.pfn + formulas.nr_pages(f)
    overlap = ends[:-1] > f.pfn[1:]
    assert not overlap.any(), shown(f.pfn[:-1][overlap])
    assert not f.broken.any()


def drgn_sample(opened: Opened) -> list[int]:
    """Return page frames to ask drgn about: of every large folio head, neighbours and tails; and 3000 at random."""
    rng = random.Random(1)
    f = opened.folios
    pfns = set()
    for i in numpy.flatnonzero(f.order > 0).tolist():
        head, size = int(f.pfn[i]), 1 << int(f.order[i])
        pfns |= {head, head + 1, head + size - 1, head + rng.randrange(size)}
        pfns |= {pfn for pfn in (head - 1, head + size) if opened.context.sections.index(pfn) is not None}
    runs = opened.context.sections.runs()
    for _ in range(3000):
        start, end = rng.choice(runs)
        pfns.add(rng.randrange(start, end))
    return sorted(pfns)


def test_heads_and_orders_match_drgn(opened: Opened) -> None:
    """Three encodings of a tail, and three places for the order."""
    f, memmap = opened.folios, opened.context.memmap
    for pfn in drgn_sample(opened):
        page = pfn_to_page(opened.prog, pfn)
        head = int(page_to_pfn(compound_head(page)))
        assert memmap.head_pfn(pfn) == head, hex(pfn)
        row = opened.position.get(pfn)
        if PageHead(page):
            assert row is not None, f"{pfn:#x} is a head, but no folio was found there"
            assert bool(f.head[row])
            assert int(f.order[row]) == int(compound_order(page)), hex(pfn)
        elif PageTail(page):
            assert row is None, f"{pfn:#x} is a tail"
            assert opened.folio_of_page[pfn] == opened.position[head], hex(pfn)
        elif row is not None:
            assert int(f.order[row]) == 0, hex(pfn)


def test_reference_counts_match_drgn(opened: Opened) -> None:
    """All of them: nothing else in a verdict matters as much."""
    f = opened.folios
    first = pfn_to_page(opened.prog, 0)
    for pfn, refcount in zip(f.pfn.tolist(), f.refcount.tolist()):
        assert first[pfn]._refcount.counter.value_() == refcount, hex(pfn)


def _large_counts(page: Object) -> dict[str, int]:
    """Return the counts of a large folio, by drgn, as far as its kernel has them."""
    page_type = page.type_.type
    if page_type.has_member("compound_mapcount"):
        counts = {"entire_mapcount": int(page[1].compound_mapcount.counter) + 1}
        if page_type.has_member("compound_pincount"):
            counts["pincount"] = int(page[1].compound_pincount.counter)
        elif int(compound_order(page)) > 1:
            counts["pincount"] = int(page[2].hpage_pinned_refcount.counter)
        return counts
    folio = cast("struct folio *", page)
    return {
        "entire_mapcount": int(folio._entire_mapcount.counter) + 1,
        "large_mapcount": int(folio._large_mapcount.counter) + 1,
        "nr_pages_mapped": int(folio._nr_pages_mapped.counter),
        "pincount": int(folio._pincount.counter),
    }


def test_counts_of_large_folios_match_drgn(opened: Opened) -> None:
    """Their places moved with every kernel; the names that members have in drgn are the kernel's."""
    f = opened.folios
    for i in numpy.flatnonzero(f.order > 0).tolist():
        page = pfn_to_page(opened.prog, int(f.pfn[i]))
        for name, count in _large_counts(page).items():
            assert int(getattr(f, name)[i]) == count, (hex(f.pfn[i]), name)


def test_mappings_and_private_match_drgn(opened: Opened) -> None:
    """What a folio belongs to decides which checks it meets; a sample of small ones, and all large ones."""
    f = opened.folios
    rows = set(numpy.flatnonzero(f.order > 0).tolist()) | set(range(0, len(f), 23))
    for i in sorted(rows):
        page = pfn_to_page(opened.prog, int(f.pfn[i]))
        flags = page.flags.f if page.flags.type_.kind == TypeKind.TYPEDEF else page.flags
        assert int(flags) == int(f.flags[i]), hex(f.pfn[i])
        assert int(cast("unsigned long", page.mapping)) == int(f.mapping[i]), hex(f.pfn[i])
        assert int(page.private) == int(f.private[i]), hex(f.pfn[i])
        kind = opened.context.mappings.kinds[int(f.mapping_kind[i])]
        if bool(formulas.page_cache(f)[i]):
            operations = page.mapping.a_ops.value_()
            assert kind.name == opened.prog.symbol(operations).name, hex(f.pfn[i])


def test_zones_and_nodes_match_their_ranges(opened: Opened) -> None:
    """The widths of both fields of the flags word are macros, so they were derived."""
    f = opened.folios
    known = numpy.zeros(len(f), dtype=bool)
    for pgdat in for_each_online_pgdat(opened.prog):
        for index, zone in enumerate(pgdat.node_zones):
            start, spanned = int(zone.zone_start_pfn), int(zone.spanned_pages)
            claims = (f.node == int(pgdat.node_id)) & (f.zone == index)
            known |= claims & (f.pfn >= start) & (f.pfn < start + spanned)
    # The kernel marks what lies in no zone as reserved: the end of the last section of boot memory.
    assert not (~known & ~f.reserved).any(), shown(f.pfn[~known & ~f.reserved])
    hotplugged = numpy.isin(f.pfn, opened.dump.hotplug_pfns)
    assert ((f.node == 1) == hotplugged).all()
    assert (is_movable(opened)[hotplugged]).all()
    assert not is_movable(opened)[~hotplugged & known].any()


def is_movable(opened: Opened) -> Column:
    return formulas.is_zone_movable(opened.folios)


# -- the guest's own word ----------------------------------------------------------------------------------------------


def is_new_page_of_pid_1(opened: Opened, pages: Pages) -> Column:
    """
    Return which pages pid 1 got after it had read /proc/kpageflags: they are in its page tables, and in no other.

    It went on to print what it had read. That copies pages on write which it shared with the scenarios' processes.
    """
    own = [pfn for pfn, mappers in opened.mapped.pte_mappers.items() if mappers == {1}]
    f = pages.pages
    return formulas.PageAnon(f) & numpy.isin(f.pfn, own) & ~f.dirty & (f.order == 0) & ~pages.tail


def is_kernel_memory(flags: Column) -> Column:
    """Return which pages are free, slab or page tables, by flags as in /proc/kpageflags."""
    kinds = sum(1 << KPF[name] for name in ("SLAB", "BUDDY", "PGTABLE", "COMPOUND_HEAD", "COMPOUND_TAIL"))
    return (flags & numpy.uint64(~kinds & 0xFFFFFFFFFFFFFFFF)) == 0


def is_nobodys(flags: Column) -> Column:
    """Return which pages are free, in a block or on a per-CPU list."""
    return (flags & numpy.uint64(~(1 << KPF["BUDDY"]) & 0xFFFFFFFFFFFFFFFF)) == 0


def test_flags_match_kpageflags(opened: Opened, pages: Pages) -> None:
    """
    Every page of the dump, every flag.

    The guest stopped a moment after it had read them. What it did in between is to print, as pid 1: that may have given
    pid 1 pages that were free, and the kernel may have taken memory for itself, or given it back.
    """
    f = pages.pages
    mask = compared(opened, pages)
    ours = expected_flags(opened, pages) & mask
    guest, known = opened.guest(f.pfn, opened.dump.kpageflags)
    guest &= mask
    differ = known & (ours != guest)
    new = differ & is_nobodys(guest) & is_new_page_of_pid_1(opened, pages)
    taken_or_given = differ & is_kernel_memory(ours) & is_kernel_memory(guest) & (is_nobodys(ours) | is_nobodys(guest))
    unexplained = differ & ~new & ~taken_or_given
    assert not unexplained.any(), [
        (hex(f.pfn[i]), "guest", names(int(guest[i])), "package", names(int(ours[i])))
        for i in numpy.flatnonzero(unexplained)[:20]
    ]
    between_lists = taken_or_given & is_nobodys(ours) & is_nobodys(guest)
    assert numpy.count_nonzero(between_lists) <= CHANGED_MEANWHILE + BATCH_OF_FREE_PAGES
    assert numpy.count_nonzero(taken_or_given & ~between_lists) <= CHANGED_MEANWHILE
    assert numpy.count_nonzero(new) <= CHANGED_MEANWHILE
    seen = int(numpy.bitwise_or.reduce(guest[known]))
    wanted = {"LRU", "SLAB", "BUDDY", "MMAP", "ANON", "SWAPCACHE", "HUGE", "KSM", "THP", "PGTABLE", "RESERVED"}
    assert wanted <= set(names(seen)), "the dump does not have what this compares"


def page_mapcounts(pages: Pages) -> Column:
    """Return the package's page_mapcount() of every page, tails included."""
    own = formulas.subpage_mapcount_of_head(pages.pages)
    return formulas.page_mapcount(pages.heads, own)


def test_mapcounts_match_kpagecount(opened: Opened, pages: Pages) -> None:
    """
    Every page of the dump.

    A page that pid 1 copied on write meanwhile has one mapping less, its copy one more: nothing else has changed.
    """
    f = pages.pages
    ours = page_mapcounts(pages)
    guest, known = opened.guest(f.pfn, opened.dump.kpagecount)
    surplus = numpy.where(known, ours - guest.astype(numpy.int64), 0)
    copies = (surplus == 1) & (ours == 1) & is_new_page_of_pid_1(opened, pages)
    originals = (surplus == -1) & formulas.PageAnon(f) & (f.order == 0)
    unexplained = (surplus != 0) & ~copies & ~originals
    assert not unexplained.any(), [
        (hex(f.pfn[i]), int(guest[i]), int(ours[i])) for i in numpy.flatnonzero(unexplained)[:20]
    ]
    assert numpy.count_nonzero(originals) <= numpy.count_nonzero(copies) <= CHANGED_MEANWHILE


def test_mapcounts_match_page_tables(opened: Opened, pages: Pages) -> None:
    """The same instant as the dump, so that here nothing may differ: neither of pages nor of folios."""
    f, mapped = pages.pages, opened.mapped
    pmds = numpy.zeros(len(f), numpy.int64)
    ptes = numpy.zeros(len(f), numpy.int64)
    row = {pfn: i for i, pfn in enumerate(f.pfn.tolist())}
    for pfn, count in mapped.ptes.items():
        ptes[row[pfn]] += count
    for pfn, count in mapped.pmds.items():
        pmds[row[pfn]] += count
    of_pages = ptes + pmds[pages.folio]
    differ = of_pages != page_mapcounts(pages)
    assert not differ.any(), shown(f.pfn[differ])
    totals = numpy.bincount(pages.folio, ptes + pmds, len(f)).astype(numpy.int64)
    differ = ~pages.tail & (totals != formulas.folio_mapcount(f))
    assert not differ.any(), [
        (hex(f.pfn[i]), int(totals[i]), int(formulas.folio_mapcount(f)[i])) for i in numpy.flatnonzero(differ)[:20]
    ]
    assert numpy.count_nonzero(pmds) >= 8
    assert (pmds == f.entire_mapcount)[f.order == 9].all()


def test_one_page_helper_matches_kpagecount(opened: Opened) -> None:
    """The helper that takes a tail page reads it for itself: the bulk column cannot vouch for it."""
    rng = random.Random(2)
    f = opened.folios
    pfns = [mark.pfn for mark in opened.dump.marks]
    for i in numpy.flatnonzero((f.order > 0) & formulas.is_user(f)).tolist():
        pfns += [int(f.pfn[i]) + rng.randrange(1 << int(f.order[i])) for _ in range(20)]
    for pfn in pfns:
        count = opened.mapped.ptes[pfn] + opened.mapped.pmds[opened.head_by_guest(pfn)]
        assert helpers.page_mapcount(pfn_to_page(opened.prog, pfn)) == count, hex(pfn)


# -- marks, and the balance of references ------------------------------------------------------------------------------


def test_marks_are_where_pagemap_says(opened: Opened) -> None:
    """The guest's pagemap gave the page frames; kpageflags tells which folio each belongs to."""
    f = opened.folios
    for mark in opened.dump.marks:
        head = opened.head_by_guest(mark.pfn)
        assert opened.context.memmap.head_pfn(mark.pfn) == head, mark
        row = opened.position[head]
        assert opened.folio_of_page[mark.pfn] == row, mark
        if mark.vaddr:
            assert opened.mapped.ptes[mark.pfn] + opened.mapped.pmds[head] > 0, mark
        expected_order = {"anon-thp": 9, "shmem-thp": 9, "hugetlb": 9, "anon-mthp": 4, "anon": 0, "ksm": 0}
        assert int(f.order[row]) == expected_order.get(mark.kind, int(f.order[row])), mark
        kind = opened.context.mappings.kinds[int(f.mapping_kind[row])].name
        types = {"anon": "anon", "anon-thp": "anon", "anon-mthp": "anon", "ksm": "ksm", "kernel": ""}
        assert kind == types.get(mark.kind, kind), mark


def test_every_way_to_name_a_page(opened: Opened) -> None:
    """Page frame, physical address, address of the struct page, and of the memory itself, wherever that is mapped."""
    context, prog = opened.context, opened.prog
    for mark in opened.dump.marks[::5]:
        page = pfn_to_page(prog, mark.pfn)
        words = {f"{mark.pfn:#x}", f"pfn:{mark.pfn}", f"phys:{mark.pfn << 12:#x}"}
        words |= {f"{page.value_():#x}", f"page:{page.value_() + 8:#x}"}
        if mark.kind != "secretmem":  # is not in the direct map
            words |= {f"{page_to_virt(page).value_() + 5:#x}", f"virt:{page_to_virt(page).value_():#x}"}
        assert {parse_page(context, word) for word in words} == {mark.pfn}, mark
    module = prog["modules"].next.value_()  # in memory of its own; and a variable in the kernel's image
    for address in (module, int(prog["init_task"].address_of_())):
        pfn = int(follow_phys(prog["init_mm"].address_of_(), address)) >> 12
        assert parse_page(context, hex(address)) == parse_page(context, f"virt:{address:#x}") == pfn


def test_every_reference_is_explained(opened: Opened) -> None:
    """
    Must show 2: refcount - expected - batches is 0 for every folio on the LRU, unless the workload holds it.

    And of those that it holds, exactly one reference is left over. Folios of processes and files that are on no list
    (hugetlb, secret memory, in a batch) are held to the same.
    """
    f = opened.folios
    left_over = f.refcount - formulas.folio_expected_ref_count(f) - f.batches
    accounted = f.lru | (formulas.is_user(f) & (f.refcount > 0))
    held = numpy.isin(f.pfn, list(opened.held))
    wrong = accounted & (left_over != held)
    assert not wrong.any(), [
        {
            "pfn": hex(f.pfn[i]),
            "order": int(f.order[i]),
            "left over": int(left_over[i]),
            "held by": [mark.scenario for mark in opened.held.get(int(f.pfn[i]), [])],
            "refcount": int(f.refcount[i]),
            "mapcount": int(formulas.folio_mapcount(f)[i]),
            "batches": int(f.batches[i]),
            "mapping": opened.context.mappings.kinds[int(f.mapping_kind[i])].name,
        }
        for i in numpy.flatnonzero(wrong)[:20]
    ]
    assert numpy.count_nonzero(accounted) > 3000
    assert (formulas.extra_references(f)[accounted] == left_over[accounted]).all()


def test_batches_are_taken_off(opened: Opened) -> None:
    """A page on its way to the LRU has a reference of its batch, which is no obstacle on paths that drain first."""
    (mark,) = [mark for mark in opened.dump.marks if mark.scenario == "fresh"]
    row = opened.position[mark.pfn]
    f = opened.folios
    assert (int(f.batches[row]), int(f.refcount[row]), bool(f.lru[row])) == (1, 2, False)
    assert int(formulas.extra_references(f)[row]) == 0


def test_free_blocks_end_where_memory_in_use_begins(opened: Opened, pages: Pages) -> None:
    """The scan skips what lies behind the head of a free block: nothing of it may be in use."""
    f = pages.pages
    inside = pages.in_free_blocks
    assert not (inside & (f.refcount > 0)).any(), shown(f.pfn[inside & (f.refcount > 0)])
    assert not (inside & pages.tail).any()
    assert not (inside & (f.type != PageType.BUDDY) & (f.type != PageType.NONE)).any()
