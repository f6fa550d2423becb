# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Which folios would the Linux kernel refuse to migrate, by which of its own checks, and who holds them.

``from drgn_thp import *`` gives the helpers. None of them, and nothing that they need, is imported before it is used:
drgn imports this package at each start.
"""

from __future__ import annotations

import importlib
from typing import Any

_HELPERS = {
    "helpers": (
        "can_split_folio",
        "extra_references",
        "folio_expected_ref_count",
        "folio_mapcount",
        "folio_maybe_additionally_referenced",
        "folio_maybe_dma_pinned",
        "migration_verdict",
        "page_cache_references",
        "page_mapcount",
        "read_folio",
        "read_page",
        "split_extra_pins",
        "swapcache_references",
        "total_mapcount",
        "write_protect_page_balance",
    ),
    "predicates": (
        "PageAnon",
        "PageAnonExclusive",
        "PageBuddy",
        "PageHuge",
        "PageKsm",
        "PageOffline",
        "PageSwapCache",
        "PageTable",
        "folio_test_active",
        "folio_test_anon",
        "folio_test_dirty",
        "folio_test_hugetlb",
        "folio_test_hwpoison",
        "folio_test_ksm",
        "folio_test_large",
        "folio_test_large_rmappable",
        "folio_test_locked",
        "folio_test_lru",
        "folio_test_mlocked",
        "folio_test_movable_ops",
        "folio_test_pagecache",
        "folio_test_partially_mapped",
        "folio_test_private",
        "folio_test_referenced",
        "folio_test_reserved",
        "folio_test_swapbacked",
        "folio_test_swapcache",
        "folio_test_unevictable",
        "folio_test_uptodate",
        "folio_test_writeback",
    ),
    "finding": (
        "for_each_folio",
        "for_each_refused_folio",
        "get_pageblock_migratetype",
        "page_zone",
    ),
}
_MODULES = {name: module for module, names in _HELPERS.items() for name in names}
__all__ = tuple(_MODULES)


def __getattr__(name: str) -> Any:
    try:
        module = _MODULES[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
