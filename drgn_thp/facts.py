# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What is read from memory, each fact declared once: its name, its width, and where each kernel generation keeps it.

This is the only file that spells a member of ``struct page`` or ``struct folio``. Places are tried in the order
written, newest first unless a comment says why not; the first whose type and member exist is taken. Presence is not
meaning, so every column has a test against a reader that is not ours.

Bits of ``page->flags`` are enumerators (``enum pageflags``), whose values depend on version *and* configuration.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class At:
    """One place where some kernels keep a fact."""

    type: str
    member: str
    page: int = 0
    """Index of the ``struct page`` from whose start a ``struct page`` member counts (1 = first tail page)."""
    mask: int | None = None
    since: str = ""
    address_masks: bool = False
    """The value may be a mask for the struct page's own address instead of an address."""


@dataclass(frozen=True)
class Fact:
    """A number that is read from the struct pages of a folio."""

    name: str
    dtype: str
    places: tuple[At, ...]
    bias: int = 0
    """Added to what is read: the kernel stores most map counts minus one."""
    large_only: bool = False
    """Kept in a tail page: reads as ``absent`` for a folio of one page."""
    absent: int = 0
    """The value where the kernel has no such field, or the folio no such page."""
    required: bool = False


@dataclass(frozen=True)
class Flag:
    """A bit of the flags word of one of the folio's struct pages; never set where the kernel has no such bit."""

    name: str
    enumerators: tuple[str, ...]
    page: int = 0


def _fact(name: str, dtype: str, *places: At, bias: int = 0, absent: int = 0, required: bool = False) -> Fact:
    return Fact(name, dtype, places, bias, False, absent, required)


def _large_fact(name: str, dtype: str, *places: At, bias: int = 0, absent: int = 0, required: bool = False) -> Fact:
    return Fact(name, dtype, places, bias, True, absent, required)


_FLAGS_PLACES = (
    At("struct page", "flags.f", since='53fbef56e07d ("mm: introduce memdesc_flags_t") (in v6.18)'),
    At("struct page", "flags"),
)

FACTS: tuple[Fact, ...] = (
    _fact("flags", "u8", *_FLAGS_PLACES, required=True),
    # Bit 0 set: a tail page. The rest is the head's address, or since v7.1 (if sizeof(struct page) is a power of two
    # and CONFIG_HUGETLB_PAGE_OPTIMIZE_VMEMMAP is set) a mask for the tail's own address.
    _fact(
        "compound_word",
        "u8",
        At("struct page", "compound_info", address_masks=True),
        At("struct page", "compound_head", since='1d798ca3f164 ("mm: make compound_head() robust") (in v4.4)'),
        required=True,
    ),
    _fact("mapping", "u8", At("struct page", "mapping"), required=True),
    _fact("private", "u8", At("struct page", "private"), required=True),
    # No check asks for these three: they tell a folio from one that came into its place (confirm.py).
    _fact(
        "index",
        "u8",
        # struct folio came with v5.16; struct page calls it __folio_index since v6.16.
        At("struct folio", "index"),
        At("struct page", "index"),
    ),
    _fact(
        "memcg_data",
        "u8",
        At("struct folio", "memcg_data"),
        # bcfe06bf2622 ("mm: memcontrol: Use helpers to read page's memcg data") (in v5.11)
        At("struct page", "memcg_data"),
    ),
    _fact("mem_cgroup", "u8", At("struct page", "mem_cgroup")),
    _fact("refcount", "i4", At("struct page", "_refcount.counter"), required=True),
    # The same word holds the map count of this one page, minus one, or a page type.
    _fact("type_word", "u4", At("struct page", "_mapcount.counter"), required=True),
    _large_fact("large_flags", "u8", *(At(p.type, p.member, page=1, since=p.since) for p in _FLAGS_PLACES)),
    _large_fact(
        "order",
        "u1",
        # struct folio::_flags_1 exists since v6.1 but holds the order only since v6.6, when _folio_order went away:
        # _folio_order must be tried first.
        At(
            "struct folio",
            "_folio_order",
            since='379708ffde1b ("mm: add the first tail page to struct folio") (in v6.1)',
        ),
        At(
            "struct folio",
            "_flags_1",
            mask=0xFF,
            since='ebc1baf5c9b4 ("mm: free up a word in the first tail page") (in v6.6)',
        ),
        At("struct page", "compound_order", page=1),
        required=True,
    ),
    _large_fact(
        "entire_mapcount",
        "i4",
        At("struct folio", "_entire_mapcount.counter"),
        # Until v6.2 struct folio called this field _total_mapcount, although it counts PMD and PUD mappings only.
        At("struct page", "compound_mapcount.counter", page=1),
        bias=1,
        required=True,
    ),
    _large_fact(
        "large_mapcount",
        "i4",
        At(
            "struct folio",
            "_large_mapcount.counter",
            since='05c5323b2a34 ("mm: track mapcount of large folios in single value") (in v6.10)',
        ),
        bias=1,
    ),
    # Starts at 0, not at -1. Bit 0x800000 says that the whole folio is mapped at once.
    _large_fact(
        "nr_pages_mapped",
        "i4",
        At(
            "struct folio",
            "_nr_pages_mapped.counter",
            since='eec20426d48b ("mm: convert head_subpages_mapcount() into folio_nr_pages_mapped()") (in v6.3)',
        ),
        At(
            "struct page",
            "subpages_mapcount.counter",
            page=1,
            since='cb67f4282bf9 ("mm,thp,rmap: simplify compound page mapcount handling") (in v6.2)',
        ),
    ),
    _large_fact(
        "pincount",
        "i4",
        At(
            "struct folio",
            "_pincount.counter",
            since='94688e8eb453 ("mm: remove folio_pincount_ptr() and head_compound_pincount()") (in v6.3)',
        ),
        At(
            "struct page",
            "compound_pincount.counter",
            page=1,
            since='5232c63f46fd ("mm: Make compound_pincount always available") (in v5.18)',
        ),
        # Only folios of order 2 and above have a third struct page to hold it.
        At(
            "struct page",
            "hpage_pinned_refcount.counter",
            page=2,
            since='47e29d32afba ("mm/gup: page->hpage_pinned_refcount: exact pin counts for huge pages") (in v5.7)',
        ),
    ),
    _large_fact(
        "mm_ids",
        "u8",
        At(
            "struct folio",
            "_mm_ids",
            since='6af8cb80d3a9 ("mm/rmap: basic MM owner tracking for large folios (!hugetlb)") (in v6.15)',
        ),
    ),
    _large_fact("compound_dtor", "u1", At("struct page", "compound_dtor", page=1)),
)

FLAGS: tuple[Flag, ...] = (
    Flag("locked", ("PG_locked",)),
    Flag("writeback", ("PG_writeback",)),
    Flag("referenced", ("PG_referenced",)),
    Flag("uptodate", ("PG_uptodate",)),
    Flag("dirty", ("PG_dirty",)),
    Flag("lru", ("PG_lru",)),
    Flag("head", ("PG_head",)),
    Flag("active", ("PG_active",)),
    Flag("workingset", ("PG_workingset",)),
    Flag("slab_flag", ("PG_slab",)),  # a page type since 46df8e73a4a3 ("mm: free up PG_slab") (in v6.10)
    Flag("owner_priv_1", ("PG_owner_priv_1",)),
    Flag("swapcache_bit", ("PG_swapcache",)),  # shares PG_owner_priv_1: means swap cache only beside PG_swapbacked
    Flag("reserved", ("PG_reserved",)),
    Flag("private_flag", ("PG_private",)),
    Flag("private_2", ("PG_private_2",)),
    Flag("reclaim", ("PG_reclaim",)),
    Flag("swapbacked", ("PG_swapbacked",)),
    Flag("unevictable", ("PG_unevictable",)),
    Flag("mlocked", ("PG_mlocked",)),
    Flag("hwpoison", ("PG_hwpoison",)),
    # 84caf98838a3 ("mm: stop storing migration_ops in page->mapping") (in v6.17) made this mark a flag.
    Flag("movable_ops_flag", ("PG_movable_ops",)),
    Flag("movable_isolated", ("PG_movable_ops_isolated", "PG_isolated")),
    # Flags of the first tail page, which describe the whole folio.
    Flag("double_map", ("PG_double_map",), page=1),
    Flag("has_hwpoisoned", ("PG_has_hwpoisoned",), page=1),
    Flag("large_rmappable", ("PG_large_rmappable",), page=1),
    Flag("partially_mapped", ("PG_partially_mapped",), page=1),
    Flag("hugetlb_flag", ("PG_hugetlb",), page=1),  # v6.6 to v6.9
    Flag("anon_exclusive", ("PG_anon_exclusive",)),
)

# Not a fact of a scan: only what lists THPs asks for it. Whoever is on no list points to itself.
DEFERRED_LIST: tuple[At, ...] = (
    At("struct folio", "_deferred_list"),
    At("struct page", "deferred_list", page=2),
)
# How a folio that was taken off the LRU is linked with others on somebody's list.
LRU_LIST: tuple[At, ...] = (At("struct folio", "lru"), At("struct page", "lru"))
