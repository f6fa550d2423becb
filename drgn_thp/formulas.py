# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The kernel's arithmetic on facts, one function a formula, for one folio and for a million.

Each takes a table of folios and returns a column. Kernels differ in few places; each is one branch in the one formula,
newest first. Nothing here reads memory or knows drgn.
"""

from __future__ import annotations

import numpy

from .folios import Column, Folios, formula
from .kernel import GUP_PIN_COUNTING_BIAS
from .pagetype import PageType

# include/linux/page-flags.h: the low bits of struct page::mapping.
PAGE_MAPPING_ANON = 1
PAGE_MAPPING_KSM = 3
PAGE_MAPPING_MOVABLE = (
    2  # alone; gone since 84caf98838a3 ("mm: stop storing migration_ops in page->mapping") (in v6.17)
)
PAGE_MAPPING_FLAGS = 3

# Plain numbers: an enumeration's members are slow to reach.
_NONE, _BUDDY, _OFFLINE, _ZSMALLOC, _HUGETLB = (
    int(t) for t in (PageType.NONE, PageType.BUDDY, PageType.OFFLINE, PageType.ZSMALLOC, PageType.HUGETLB)
)

# include/linux/rmap.h, since 6af8cb80d3a9 (in v6.15): the bit above the two ids of 31 bits and their lock bits.
FOLIO_MM_IDS_SHARED = 1 << 63


@formula
def nr_pages(f: Folios) -> Column:
    """Return folio_nr_pages(): pages per folio."""
    return numpy.left_shift(numpy.int64(1), f.order)


@formula
def _untyped(f: Folios) -> Column:
    return f.type == _NONE


@formula
def PageHuge(f: Folios) -> Column:
    """Return whether a folio belongs to hugetlb: folio_test_hugetlb()."""
    return f.type == _HUGETLB


@formula
def has_mapping_word(f: Folios) -> Column:
    """Return whether ``mapping`` means an anon_vma or address_space: page types keep other things there."""
    return _untyped(f) | PageHuge(f)


@formula
def PageAnon(f: Folios) -> Column:
    """Return whether a folio is anonymous (KSM included): folio_test_anon()."""
    return has_mapping_word(f) & ((f.mapping & PAGE_MAPPING_ANON) != 0)


@formula
def PageKsm(f: Folios) -> Column:
    """Return whether a folio is shared by KSM: folio_test_ksm()."""
    return has_mapping_word(f) & ((f.mapping & PAGE_MAPPING_FLAGS) == PAGE_MAPPING_KSM)


@formula
def page_cache(f: Folios) -> Column:
    """Return whether a folio is in the page cache: it has an address_space of its own, not the swap cache's."""
    return has_mapping_word(f) & (f.mapping != 0) & ((f.mapping & PAGE_MAPPING_FLAGS) == 0)


@formula
def page_has_movable_ops(f: Folios) -> Column:
    """
    Return whether a page off the LRU belongs to a driver that can migrate it (balloon, zsmalloc).

    Called __PageMovable() until 84caf98838a3 ("mm: stop storing migration_ops in page->mapping") (in v6.17) moved the
    mark from the low bits of ``mapping`` to a page flag that counts for two page types only.
    """
    if f.kernel.movable_ops_by_type:
        return f.movable_ops_flag & ((f.type == _OFFLINE) | (f.type == _ZSMALLOC))
    may = _untyped(f) | (f.type == _OFFLINE) | (f.type == _ZSMALLOC)
    return may & ((f.mapping & PAGE_MAPPING_FLAGS) == PAGE_MAPPING_MOVABLE)


@formula
def folio_test_swapcache(f: Folios) -> Column:
    """Return whether a folio is in the swap cache. The bit alone means something else on a folio of a filesystem."""
    return _untyped(f) & f.swapbacked & f.swapcache_bit


@formula
def folio_mapping_is_null(f: Folios) -> Column:
    """Return whether folio_mapping() is NULL: anonymous or KSM outside the swap cache, or truncated."""
    return ~page_cache(f) & ~folio_test_swapcache(f)


@formula
def is_user(f: Folios) -> Column:
    """Return whether a folio belongs to a process or a file, so that mm can say how many references it should have."""
    return PageHuge(f) | PageAnon(f) | page_cache(f) | folio_test_swapcache(f) | (_untyped(f) & f.lru)


@formula
def subpage_mapcount_of_head(f: Folios) -> Column:
    """Return ``page->_mapcount + 1`` of the first page: how many page table entries map just it. 0 for typed pages."""
    return numpy.where(_untyped(f), f.type_word.astype(numpy.int32).astype(numpy.int64) + 1, 0)


def page_mapcount(f: Folios, own: Column | None = None) -> Column:
    """
    Return page_mapcount(): how often one page of a folio is mapped, by itself or as part of the folio.

    :param own: ``_mapcount + 1`` of the page; of the head page if not given

    Removed in v6.10; there it is what ``/proc/kpagecount`` shows: the page's own mappings and those of the whole folio.
    """
    small = subpage_mapcount_of_head(f) if own is None else own
    large = f.order > 0
    if not f.kernel.pmd_maps_counted_in_subpages:
        return small + numpy.where(large, f.entire_mapcount, 0)
    # __page_mapcount(): a file THP's PMD mappings are counted in its subpages already, an anonymous one's only while
    # PG_double_map is set, and then once.
    whole = numpy.where(PageAnon(f) | PageHuge(f), f.entire_mapcount - f.double_map, 0)
    return small + numpy.where(large, whole, 0)


@formula
def folio_mapcount(f: Folios) -> Column:
    """
    Return how many page table entries map any part of a folio; a mapping of the whole folio counts 1.

    Called total_mapcount() until v6.1. 05c5323b2a34 ("mm: track mapcount of large folios in single value") (in v6.10)
    keeps the total in the folio; before, it is a sum over all subpages.
    """
    small = subpage_mapcount_of_head(f)
    large = f.order > 0
    if f.kernel.large_mapcount:
        return numpy.where(large, f.large_mapcount, small)
    total = f.entire_mapcount + f.subpage_mapcounts
    if f.kernel.pmd_maps_counted_in_subpages:
        # total_mapcount(): take out what PMD mappings added to every subpage.
        anon = PageAnon(f)
        total = total - nr_pages(f) * numpy.where(anon, f.double_map, f.entire_mapcount)
    return numpy.where(large, numpy.where(PageHuge(f), f.entire_mapcount, total), small)


total_mapcount = folio_mapcount


@formula
def swapcache_references(f: Folios) -> Column:
    """Return how many references the swap cache holds: one per page of the folio, taken all at once."""
    return folio_test_swapcache(f) * nr_pages(f)


@formula
def page_cache_references(f: Folios) -> Column:
    """
    Return how many references the page cache holds: one per page, as each has an index of its own in the mapping.

    A hugetlb folio had one until a08c7193e4f1 ("mm/filemap: remove hugetlb special casing in filemap.c") (in v6.7).
    """
    per_folio = nr_pages(f)
    if f.kernel.hugetlb_cache_holds_one:
        per_folio = numpy.where(PageHuge(f), 1, per_folio)
    return page_cache(f) * per_folio


@formula
def private_references(f: Folios) -> Column:
    """
    Return the reference that comes with private data (buffer heads and the like), 1 or 0.

    Before struct folio (v5.16), PG_private_2 had one as well.
    """
    private = f.private_flag | f.private_2 if f.kernel.private_2_holds_reference else f.private_flag
    return _untyped(f) & ~PageAnon(f) & private & 1


@formula
def folio_expected_ref_count(f: Folios) -> Column:
    """
    Return how many references mm itself explains, for folios that nobody has isolated.

    Mappings, one reference per page for each of the page and swap caches, and one for private data. Kernels before
    86ebd50224c0 ("mm: add folio_expected_ref_count() for reference count calculation") (in v6.16) spread this over
    expected_page_refs(), folio_expected_refs() and can_split_folio().
    """
    return folio_mapcount(f) + swapcache_references(f) + page_cache_references(f) + private_references(f)


@formula
def extra_references(f: Folios) -> Column:
    """
    Return the references that no part of mm explains, after per-CPU batches; negative if some are missing.

    Defined for folios of processes and files (:func:`is_user`); 0 for all others. ``batches`` counts the folio's
    entries in per-CPU LRU and mlock batches, each of which holds a reference until the batch is drained.
    """
    surplus = f.refcount - folio_expected_ref_count(f) - f.batches
    return numpy.where(is_user(f) & (f.refcount > 0), surplus, 0)


@formula
def lost_references(f: Folios) -> Column:
    """
    Return the references that the kernel itself lost, of THPs that nobody has any more; 0 of all others.

    __split_huge_pmd_locked() of 5.10 takes a reference for each page but the first also of an entry that waits for a
    THP to be moved (``page_ref_add(page, HPAGE_PMD_NR - 1)``; of 6.1, of present entries only). Nobody drops these. The
    THP is moved, and its old memory stays in use for ever: anonymous, mapped nowhere, on no LRU list, with 511
    references, or a multiple of that if several processes had it.
    """
    extra, each = extra_references(f), numpy.maximum(nr_pages(f) - 1, 1)
    nobodys = PageAnon(f) & (f.order > 0) & (folio_mapcount(f) == 0) & ~f.lru & ~f.locked & ~folio_test_swapcache(f)
    return numpy.where(nobodys & (extra > 0) & (extra % each == 0), extra, 0)


@formula
def folio_maybe_additionally_referenced(f: Folios) -> Column:
    """Return whether a folio has references that no part of mm explains, as the kernel thread proposed."""
    return extra_references(f) > 0


@formula
def folio_has_pincount(f: Folios) -> Column:
    """Return whether pins of a folio are counted exactly: every large folio; before v5.18, of order 2 and above."""
    return f.order >= f.kernel.pincount_from_order


@formula
def folio_maybe_dma_pinned(f: Folios) -> Column:
    """
    Return whether a folio has been pinned by FOLL_PIN.

    Exact for folios with a pin count. For small folios a pin adds 1024 references: as in the kernel, 1024 references of
    any other kind look the same.
    """
    biased = (f.refcount & 0xFFFFFFFF) >= GUP_PIN_COUNTING_BIAS
    return numpy.where(folio_has_pincount(f), f.pincount > 0, biased)


@formula
def pins(f: Folios) -> Column:
    """Return how many FOLL_PIN pins a folio has; for small folios as far as its unexplained references go."""
    biased = numpy.maximum(extra_references(f), 0) // GUP_PIN_COUNTING_BIAS
    return numpy.where(folio_has_pincount(f), f.pincount, biased)


@formula
def split_extra_pins(f: Folios) -> Column:
    """
    Return the extra pins of can_split_folio(): the references of page or swap cache, which a split takes over.

    folio_cache_ref_count() since can_split_folio() was dropped (7.x).
    """
    return swapcache_references(f) + page_cache_references(f)


def can_split_folio(f: Folios, caller_pins: int = 0) -> Column:
    """
    Return whether no reference stands in the way of splitting a folio, its private data being released first.

    The kernel calls it with a reference of its own (``caller_pins=1``); in a dump nobody has one.
    """
    return folio_mapcount(f) == f.refcount - split_extra_pins(f) - private_references(f) - f.batches - caller_pins


@formula
def write_protect_page_balance(f: Folios) -> Column:
    """
    Return the references in the way of KSM's write_protect_page(): refcount - mappings - swap cache, 0 if it may merge.

    The kernel adds one for its own reference. Meaningful for small anonymous folios.
    """
    return f.refcount - folio_mapcount(f) - swapcache_references(f) - f.batches


@formula
def folio_maybe_mapped_shared(f: Folios) -> Column:
    """
    Return whether move_pages() without MPOL_MF_MOVE_ALL takes a folio for shared between processes.

    6af8cb80d3a9 (in v6.15) tracks the processes of large folios; ebb34f78d72c ("mm: convert folio_estimated_sharers()
    to folio_likely_mapped_shared()") (in v6.9) guesses from the first page; before, it is the map count of the page
    asked for, here the head or, if that is not mapped, the one that is mapped most.
    """
    mapcount = folio_mapcount(f)
    small = (f.order == 0) | PageHuge(f)
    if f.kernel.mm_ids:
        large = (mapcount > 1) & ((f.mm_ids & numpy.uint64(FOLIO_MM_IDS_SHARED)) != 0)
    elif f.kernel.likely_mapped_shared:
        guess = (f.entire_mapcount > 0) | (mapcount > nr_pages(f)) | (subpage_mapcount_of_head(f) > 1)
        large = (mapcount > 1) & guess
    else:
        # Where the head is not mapped, any other page may be asked for. If there are as many mappings as pages, at
        # least one of the rest has two.
        of_head = page_mapcount(f)
        large = (of_head > 1) | ((of_head == 0) & (mapcount >= nr_pages(f)))
        return numpy.where(small, of_head > 1, large)
    return numpy.where(small, mapcount > 1, large)


@formula
def is_free(f: Folios) -> Column:
    """Return whether a page is free, or at least nobody's: buddy allocator, per-CPU list, or uninitialised."""
    return (f.type == _BUDDY) | ((f.refcount == 0) & _untyped(f) & ~f.locked)


@formula
def is_frozen(f: Folios) -> Column:
    """Return whether a migration, split or truncation holds the folio frozen right now."""
    return (f.refcount == 0) & _untyped(f) & f.locked


@formula
def is_isolated(f: Folios) -> Column:
    """Return whether somebody (reclaim, compaction, migration) has taken a folio off the LRU: one extra reference."""
    return is_user(f) & ~PageHuge(f) & ~f.lru & (f.batches == 0) & (extra_references(f) == 1)


@formula
def is_zone_movable(f: Folios) -> Column:
    return f.zone == f.kernel.zone_movable
