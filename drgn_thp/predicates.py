# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Predicates of folios, named as in the kernel.

Each takes a ``struct page *`` or ``struct folio *``; a tail page stands for its folio, which is where the kernel itself
looks. drgn's own (PageDirty() and the like) look at the very page.
"""

from __future__ import annotations

from typing import Callable

from drgn import Object

from . import formulas
from .folios import Column, Folios
from .helpers import read_folio, read_page
from .pagetype import PageType


def _test(page: Object, predicate: Callable[[Folios], Column]) -> bool:
    return bool(predicate(read_folio(page))[0])


def folio_test_large(page: Object) -> bool:
    """
    Return whether a folio has more than one page.

    >>> folio_test_large(example("thp"))
    True
    >>> folio_test_large(example("base"))
    False
    """
    return _test(page, lambda f: f.order > 0)


def folio_test_anon(page: Object) -> bool:
    """
    Return whether a folio is anonymous memory, pages of KSM included.

    PageAnon() for pages.

    >>> folio_test_anon(example("thp"))
    True
    >>> folio_test_anon(example("tmpfs_thp_mapped"))
    False
    """
    return _test(page, formulas.PageAnon)


def folio_test_ksm(page: Object) -> bool:
    """
    Return whether a folio is shared by KSM.

    PageKsm() for pages.

    >>> folio_test_ksm(example("ksm"))
    True
    >>> folio_test_ksm(example("base"))
    False
    """
    return _test(page, formulas.PageKsm)


def folio_test_hugetlb(page: Object) -> bool:
    """
    Return whether a folio belongs to hugetlb.

    PageHuge() for pages. A flag, a destructor, a flag of the first tail page, a page type: it has moved three times.

    >>> folio_test_hugetlb(example("hugetlb"))
    True
    >>> folio_test_hugetlb(example("thp"))
    False
    """
    return _test(page, formulas.PageHuge)


def folio_test_swapcache(page: Object) -> bool:
    """
    Return whether a folio is in the swap cache.

    PageSwapCache() for pages. The bit alone does not say so: others share it.

    >>> folio_test_swapcache(example("swapcache_base"))
    True
    >>> folio_test_swapcache(example("base"))
    False
    """
    return _test(page, formulas.folio_test_swapcache)


def folio_test_pagecache(page: Object) -> bool:
    """
    Return whether a folio is in the page cache of a file. Not a function of the kernel's.

    >>> folio_test_pagecache(example("ext4_clean_mapped"))
    True
    >>> folio_test_pagecache(example("base"))
    False
    """
    return _test(page, formulas.page_cache)


def folio_test_large_rmappable(page: Object) -> bool:
    """
    Return whether a large folio may be mapped by pages; since v6.6.

    >>> folio_test_large_rmappable(example("thp"))
    True
    >>> folio_test_large_rmappable(example("base"))
    False
    """
    return _test(page, lambda f: f.large_rmappable)


def folio_test_partially_mapped(page: Object) -> bool:
    """
    Return whether the kernel has noticed that only a part of a large folio is mapped; since v6.12.

    Kernels before have no such flag: False. ``%thp`` looks at the pages themselves.

    >>> folio_test_partially_mapped(example("thp_partial"))
    True
    >>> folio_test_partially_mapped(example("thp"))
    False
    """
    return _test(page, lambda f: f.partially_mapped)


def folio_test_movable_ops(page: Object) -> bool:
    """
    Return whether a page off the LRU belongs to a driver that can migrate it (balloon, zsmalloc).

    page_has_movable_ops() since v6.17, __PageMovable() before.

    >>> folio_test_movable_ops(example("base"))
    False
    """
    return _test(page, formulas.page_has_movable_ops)


def folio_test_locked(page: Object) -> bool:
    """
    Return whether a folio is locked.

    >>> folio_test_locked(example("base"))
    False
    """
    return _test(page, lambda f: f.locked)


def folio_test_dirty(page: Object) -> bool:
    """
    Return whether a folio has to be written before it can be dropped.

    >>> folio_test_dirty(example("ext4_dirty_mapped"))
    True
    >>> folio_test_dirty(example("ext4_clean_mapped"))
    False
    """
    return _test(page, lambda f: f.dirty)


def folio_test_writeback(page: Object) -> bool:
    """
    Return whether a folio is being written right now.

    >>> folio_test_writeback(example("ext4_dirty_mapped"))
    False
    """
    return _test(page, lambda f: f.writeback)


def folio_test_uptodate(page: Object) -> bool:
    """
    Return whether a folio holds what it should.

    >>> folio_test_uptodate(example("base"))
    True
    """
    return _test(page, lambda f: f.uptodate)


def folio_test_lru(page: Object) -> bool:
    """
    Return whether a folio is on an LRU list; not while somebody has isolated it, or it waits in a per-CPU batch.

    >>> folio_test_lru(example("base"))
    True
    >>> folio_test_lru(example("hugetlb"))
    False
    """
    return _test(page, lambda f: f.lru)


def folio_test_active(page: Object) -> bool:
    """
    Return whether a folio is on the active LRU list.

    >>> folio_test_active(example("fresh"))
    True
    """
    return _test(page, lambda f: f.active)


def folio_test_referenced(page: Object) -> bool:
    """
    Return whether a folio has been used lately.

    >>> folio_test_referenced(example("mthp_held"))
    True
    """
    return _test(page, lambda f: f.referenced)


def folio_test_swapbacked(page: Object) -> bool:
    """
    Return whether a folio goes to swap rather than to a file.

    >>> folio_test_swapbacked(example("base"))
    True
    >>> folio_test_swapbacked(example("ext4_clean_mapped"))
    False
    """
    return _test(page, lambda f: f.swapbacked)


def folio_test_unevictable(page: Object) -> bool:
    """
    Return whether a folio is kept from reclaim.

    >>> folio_test_unevictable(example("mlocked_thp"))
    True
    >>> folio_test_unevictable(example("base"))
    False
    """
    return _test(page, lambda f: f.unevictable)


def folio_test_mlocked(page: Object) -> bool:
    """
    Return whether a folio is locked into memory by mlock().

    >>> folio_test_mlocked(example("mlocked_thp"))
    True
    >>> folio_test_mlocked(example("base"))
    False
    """
    return _test(page, lambda f: f.mlocked)


def folio_test_private(page: Object) -> bool:
    """
    Return whether a folio has private data of its filesystem (buffer heads and the like), which holds a reference.

    >>> folio_test_private(example("ext4_dirty_mapped"))
    True
    >>> folio_test_private(example("base"))
    False
    """
    return _test(page, lambda f: f.private_flag)


def folio_test_reserved(page: Object) -> bool:
    """
    Return whether a page is boot-time memory, or a hole.

    >>> folio_test_reserved(example("base")), folio_test_reserved(pfn_to_page(example("base").prog_, 0))
    (False, True)
    """
    return _test(page, lambda f: f.reserved)


def folio_test_hwpoison(page: Object) -> bool:
    """
    Return whether a page has been taken out of use after an error of the hardware.

    >>> folio_test_hwpoison(example("base"))
    False
    """
    return _test(page, lambda f: f.hwpoison)


PageAnon = folio_test_anon
PageKsm = folio_test_ksm
PageHuge = folio_test_hugetlb
PageSwapCache = folio_test_swapcache


def PageAnonExclusive(page: Object) -> bool:
    """
    Return whether an anonymous page belongs to one process alone; parts of a folio may differ.

    Since v5.19. A page of hugetlb is asked by its head.

    >>> PageAnonExclusive(example("base"))
    True
    >>> PageAnonExclusive(example("base_forked"))
    False
    """
    folio = read_folio(page)
    f = folio if formulas.PageHuge(folio)[0] else read_page(page)
    return bool((formulas.PageAnon(folio) & f.anon_exclusive)[0])


def _is_type(page: Object, page_type: PageType) -> bool:
    return bool(read_page(page).type[0] == page_type)


def PageBuddy(page: Object) -> bool:
    """
    Return whether a page is the first of a free block in the buddy allocator.

    >>> PageBuddy(example("base"))
    False
    """
    return _is_type(page, PageType.BUDDY)


def PageOffline(page: Object) -> bool:
    """
    Return whether a driver (balloon, virtio-mem, Hyper-V) has taken a page out of use.

    >>> PageOffline(example("base"))
    False
    """
    return _is_type(page, PageType.OFFLINE)


def PageTable(page: Object) -> bool:
    """
    Return whether a page is a page table of some process.

    >>> PageTable(example("base"))
    False
    """
    return _is_type(page, PageType.TABLE)
