# SPDX-License-Identifier: LGPL-2.1-or-later
"""
How this kernel differs from others where arithmetic or checks are concerned: one trait a line, nothing read from
memory.

Formulas and gates ask traits, never a version. Who fills them in (``traits.py``) decides each by something in the
target itself: a member, an enumerator, a symbol, the machine code.
"""

from __future__ import annotations

from dataclasses import dataclass, field

GUP_PIN_COUNTING_BIAS = 1024  # a macro; the same in every kernel since v5.7


@dataclass(frozen=True)
class RacyCheck:
    """
    Which map count ``isolate_migratepages_block()`` compares with the reference count.

    829ae0f81ce0 ("mm: migrate: fix THP's mapcount on isolation") (in v6.1) replaced page_mapcount() by
    total_mapcount().
    """

    old: bool
    source: str
    """What it was decided by, in words for the report."""
    doubtful: bool = False


@dataclass(frozen=True)
class Kernel:
    """The traits of one kernel; see the comments for the commits that brought each."""

    release: str = ""
    page_shift: int = 12
    zone_movable: int = 3
    pageblock_order: int = 9
    max_page_order: int = 10
    """The largest order of the buddy allocator, inclusive."""
    racy_check: RacyCheck = field(default_factory=lambda: RacyCheck(False, "assumed"))

    @property
    def page_size(self) -> int:
        return 1 << self.page_shift

    # 05c5323b2a34 ("mm: track mapcount of large folios in single value") (in v6.10).
    large_mapcount: bool = True
    # Until cb67f4282bf9 ("mm,thp,rmap: simplify compound page mapcount handling") (in v6.2) a PMD mapping of a file THP
    # was counted in each of its subpages, too, and one of an anonymous THP so while PG_double_map was set.
    pmd_maps_counted_in_subpages: bool = False
    # Until 5232c63f46fd ("mm: Make compound_pincount always available") (in v5.18), order-1 folios had no pin count.
    pincount_from_order: int = 1
    # Before struct folio (v5.16), PG_private_2 came with a reference, too.
    private_2_holds_reference: bool = False
    # a08c7193e4f1 ("mm/filemap: remove hugetlb special casing in filemap.c") (in v6.7).
    hugetlb_cache_holds_one: bool = False
    # 6af8cb80d3a9 (in v6.15), see folio_maybe_mapped_shared().
    mm_ids: bool = True
    # ebb34f78d72c ("mm: convert folio_estimated_sharers() to folio_likely_mapped_shared()") (in v6.9).
    likely_mapped_shared: bool = False

    # 733aea0b3a7b ("mm/compaction: add support for >0 order folio memory compaction.") (in v6.9).
    compaction_takes_large_folios: bool = True
    compact_unevictable_allowed: bool = True
    # ae37c7ff79f1 ("mm: make alloc_contig_range handle in-use hugetlb pages") (in v5.13).
    contig_migrates_hugetlb: bool = True
    # "mm: hugetlb: make the hugetlb migration strategy consistent" (in v6.10): alloc_contig_range() is not given huge
    # pages of another node.
    contig_hugetlb_stays_on_node: bool = True
    # c77c0a8ac4c5 ("mm/hugetlb: add replace_free_hugepage_folios") (in v6.15): alloc_contig_range() replaces free huge
    # pages after migration, even if that has failed.
    contig_replaces_free_hugetlb: bool = True
    # Until 2eaa6c2abb9d ("mm: hugetlb_vmemmap: fix hugetlb page number decrease failed on movable nodes") (in v6.7),
    # the struct pages that a huge page has given back had to be of its own node when it was taken apart.
    vmemmap_stays_on_node: bool = False
    # 6.12.114 took "mm/hugetlb_vmemmap: fix incorrect vmemmap restore in rollback", which takes it for granted that all
    # pages of struct pages behind the first are one page that holds nothing but tails.
    vmemmap_restore_damages: bool = False
    # b2c9e2fbba32 ("mm: make alloc_contig_range work at pageblock granularity") (in v5.19); before, whole blocks of the
    # buddy allocator were isolated, and virtio-mem's sub-blocks were as large as these.
    isolates_pageblocks: bool = True
    # Since then, and until fd919a85cd55 ("mm: page_isolation: prepare for hygienic freelists") (in v6.10), a huge page
    # that reaches beyond what is to be isolated is migrated first, which for one of 1 GiB fails.
    isolation_migrates_straddlers: bool = False
    # d479960e44f2 ("mm: disable LRU pagevec during the migration temporarily") (in v5.13): batches are emptied first.
    lru_cache_disable: bool = True
    # 84caf98838a3 (in v6.17): movable_ops belong to a page type; before, to the low bits of page->mapping.
    movable_ops_by_type: bool = True
    # fallback_migrate_folio() writes dirty folios out as long as there is a writepage operation (until v6.16).
    fallback_writes_out: bool = False
    # folio_contain_hwpoisoned_page() in do_migrate_range() (6.12): a large folio with a poisoned page is skipped whole.
    offline_skips_poisoned_large: bool = True
