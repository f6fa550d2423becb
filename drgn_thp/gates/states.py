# SPDX-License-Identifier: LGPL-2.1-or-later
"""States of folios that several paths ask about, as predicates over formulas."""

from __future__ import annotations

from ..folios import Column, Folios, formula
from ..formulas import (
    PAGE_MAPPING_KSM,
    PageAnon,
    PageHuge,
    PageKsm,
    extra_references,
    folio_mapcount,
    folio_maybe_dma_pinned,
    folio_test_swapcache,
    is_frozen,
    is_isolated,
    is_user,
    is_zone_movable,
    page_cache,
    page_has_movable_ops,
)
from ..mapping_kinds import MigrateOp
from ..pagetype import PageType


@formula
def lru_or_user(f: Folios) -> Column:
    """Folios that migrate_pages() can be given: not hugetlb, not a driver's."""
    return is_user(f) & ~PageHuge(f) & ~f.huge_zero & ~f.zero_page


@formula
def slab(f: Folios) -> Column:
    return (f.type == PageType.SLAB) | (f.type == PageType.LARGE_KMALLOC)


@formula
def page_table(f: Folios) -> Column:
    return f.type == PageType.TABLE


@formula
def guard(f: Folios) -> Column:
    return f.type == PageType.GUARD


@formula
def page_offline(f: Folios) -> Column:
    """PageOffline that a driver keeps; virtio-mem gives its own back when asked."""
    return (f.type == PageType.OFFLINE) & ~page_has_movable_ops(f) & (f.refcount > 0) & ~f.virtio_mem


@formula
def zero_page(f: Folios) -> Column:
    return f.zero_page | f.huge_zero


@formula
def poisoned(f: Folios) -> Column:
    """Taken off the LRU by memory_failure(), which keeps a reference: nobody will ever put it back."""
    return f.hwpoison & ~f.lru & (f.refcount > 0) & ~PageHuge(f)


@formula
def _nobodys(f: Folios) -> Column:
    """In use, but of no process or file that is known, and without a type."""
    plain = (f.type == PageType.NONE) & (f.refcount > 0) & ~is_user(f) & ~f.reserved & ~zero_page(f) & (f.batches == 0)
    return plain & ~poisoned(f)


@formula
def in_transit(f: Folios) -> Column:
    """
    Allocated, but not mapped or filed yet; or no more, and about to be freed.

    A THP is cleared for milliseconds before anybody can see it. The kernel puts nothing of its own into ZONE_MOVABLE.
    """
    unseen = _nobodys(f) & (f.mapping == 0) & (folio_mapcount(f) == 0) & (f.refcount == 1)
    return unseen & (f.large_rmappable | is_zone_movable(f)) & ~page_has_movable_ops(f)


@formula
def kernel_page(f: Folios) -> Column:
    """In use, but on no LRU list, of no process and no file, and without a type that says more."""
    plain = _nobodys(f) & ~in_transit(f)
    other = (f.type == PageType.OTHER) | (f.type == PageType.KMEMCG) | (f.type == PageType.ZSMALLOC)
    return (plain | other) & ~page_has_movable_ops(f)


@formula
def off_lru(f: Folios) -> Column:
    """Of a process or file, in use, but on no LRU list and in no batch."""
    return lru_or_user(f) & ~f.lru & (f.refcount > 0) & (f.batches == 0) & ~poisoned(f)


@formula
def isolated(f: Folios) -> Column:
    return off_lru(f) & is_isolated(f)


@formula
def not_on_lru(f: Folios) -> Column:
    return off_lru(f) & ~is_isolated(f)


@formula
def in_lru_add_batch(f: Folios) -> Column:
    return ~f.lru & (f.batches > 0) & ~PageHuge(f) & (f.refcount > 0)


@formula
def movable_ops_busy(f: Folios) -> Column:
    # A mapping of exactly 2: the driver has released the page.
    released = (f.mapping == 2) & (not f.kernel.movable_ops_by_type)
    return page_has_movable_ops(f) & (f.movable_isolated | f.locked | released)


@formula
def frozen(f: Folios) -> Column:
    return is_frozen(f)


@formula
def surplus(f: Folios) -> Column:
    """
    References that stand in the way of migration: those that nobody explains, less what a migrate operation allows.

    An aio ring holds one reference to its pages, which aio_migrate_folio() knows; an isolated folio has one of whoever
    isolated it, and is refused for that already, as is one that is poisoned.
    """
    return (extra_references(f) - (f.migrate_op == MigrateOp.AIO) - is_isolated(f)) * ~poisoned(f)


@formula
def dma_pinned(f: Folios) -> Column:
    return (surplus(f) > 0) & folio_maybe_dma_pinned(f) & ~zero_page(f)


@formula
def extra_reference(f: Folios) -> Column:
    return (surplus(f) > 0) & ~folio_maybe_dma_pinned(f) & ~zero_page(f)


@formula
def missing_reference(f: Folios) -> Column:
    return (surplus(f) < 0) & (f.refcount > 0) & ~zero_page(f)


@formula
def truncated(f: Folios) -> Column:
    """A file folio whose mapping is gone."""
    return lru_or_user(f) & f.lru & ~PageAnon(f) & ~page_cache(f) & ~folio_test_swapcache(f)


@formula
def ksm_alone(f: Folios) -> Column:
    """
    A KSM folio with no node in KSM's tree, from which rmap_walk_ksm() would have to find out who maps it.

    ksmd makes it that while it merges two pages. If it then gives up, it takes the folio away from the one process that
    it was looking at: whoever shares it since a fork goes on mapping it.
    """
    return PageKsm(f) & (f.mapping == PAGE_MAPPING_KSM) & (folio_mapcount(f) > 0)


@formula
def hugetlb_used(f: Folios) -> Column:
    return PageHuge(f) & (f.refcount > 0)


@formula
def hugetlb_free(f: Folios) -> Column:
    return PageHuge(f) & (f.refcount == 0)


@formula
def hugetlb_busy(f: Folios) -> Column:
    return hugetlb_used(f) & ~f.hugetlb_migratable_flag


@formula
def hugetlb_poisoned(f: Folios) -> Column:
    """memory_failure() has cleared HPageMigratable."""
    return hugetlb_busy(f) & f.hwpoison


@formula
def hugetlb_unsupported(f: Folios) -> Column:
    return PageHuge(f) & ~f.hugetlb_supported


@formula
def hugetlb_gigantic(f: Folios) -> Column:
    return PageHuge(f) & (f.order > f.kernel.max_page_order)


@formula
def hugetlb_no_target(f: Folios) -> Column:
    return hugetlb_used(f) & ~f.hugetlb_target


@formula
def hugetlb_lean(f: Folios) -> Column:
    """Has given most of its struct pages back."""
    return PageHuge(f) & f.hugetlb_vmemmap_optimized


@formula
def hugetlb_vmemmap(f: Folios) -> Column:
    """Cannot be taken apart, free or used: there is no memory on its node for the struct pages that it lacks."""
    return hugetlb_lean(f) & ~f.kernel_memory_on_node


@formula
def hugetlb_reserved(f: Folios) -> Column:
    return hugetlb_free(f) & ~f.hugetlb_available
