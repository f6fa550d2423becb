# SPDX-License-Identifier: LGPL-2.1-or-later
"""
/proc/kpageflags as the guest's kernel would write it, from the facts that the package decoded.

Follows stable_page_flags() (fs/proc/page.c) of each kernel, quirks included: where a kernel shows less or other than
its flags say, that is done here just so, and nothing is allowed for.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy

from drgn_thp import formulas
from drgn_thp.folios import Column, Folios
from drgn_thp.pagetype import PageType
from drgn_thp.rows import concatenate

from .opened import Opened

# include/uapi/linux/kernel-page-flags.h, include/linux/kernel-page-flags.h
KPF = {
    "LOCKED": 0,
    "REFERENCED": 2,
    "UPTODATE": 3,
    "DIRTY": 4,
    "LRU": 5,
    "ACTIVE": 6,
    "SLAB": 7,
    "WRITEBACK": 8,
    "RECLAIM": 9,
    "BUDDY": 10,
    "MMAP": 11,
    "ANON": 12,
    "SWAPCACHE": 13,
    "SWAPBACKED": 14,
    "COMPOUND_HEAD": 15,
    "COMPOUND_TAIL": 16,
    "HUGE": 17,
    "UNEVICTABLE": 18,
    "HWPOISON": 19,
    "NOPAGE": 20,
    "KSM": 21,
    "THP": 22,
    "OFFLINE": 23,
    "ZERO_PAGE": 24,
    "PGTABLE": 26,
    "RESERVED": 32,
    "MLOCKED": 33,
    "OWNER_2": 34,
    "PRIVATE": 35,
    "PRIVATE_2": 36,
    "OWNER_PRIVATE": 37,
}

# Bits that are those of the flags word, copied.
COPIED = {
    "LOCKED": "locked",
    "REFERENCED": "referenced",
    "UPTODATE": "uptodate",
    "DIRTY": "dirty",
    "LRU": "lru",
    "ACTIVE": "active",
    "WRITEBACK": "writeback",
    "RECLAIM": "reclaim",
    "SWAPBACKED": "swapbacked",
    "UNEVICTABLE": "unevictable",
    "MLOCKED": "mlocked",
    "RESERVED": "reserved",
    "PRIVATE": "private_flag",
    "PRIVATE_2": "private_2",
    "OWNER_PRIVATE": "owner_priv_1",
}


class Pages:
    """
    Every struct page of the dump's online memory, decoded for itself.

    :ivar pages: A row per page; facts of tail pages, too.
    :ivar folio: For each page, the row of its folio's head, by the orders that the package decoded.
    """

    def __init__(self, opened: Opened) -> None:
        memmap = opened.context.memmap
        rows = [memmap.rows(chunk, numpy.arange(chunk.count)) for chunk in opened.chunks()]
        self.pages: Folios = opened.context.folios(concatenate(rows))
        f = self.pages
        self.folio: Column = numpy.arange(len(f))
        for i in numpy.flatnonzero(f.order > 0).tolist():
            self.folio[i : i + (1 << int(f.order[i]))] = i
        self.tail: Column = self.folio != numpy.arange(len(f))

    @property
    def heads(self) -> Folios:
        """For each page, the facts of its folio."""
        return self.pages.select(self.folio)

    @property
    def in_free_blocks(self) -> Column:
        """Which pages are within a free block of the buddy allocator."""
        f = self.pages
        result = numpy.zeros(len(f), dtype=bool)
        for i in numpy.flatnonzero(f.type == PageType.BUDDY).tolist():
            result[i : i + (1 << int(f.private[i]))] = True
        return result


def compared(opened: Opened, p: Pages) -> Column:
    """
    Return the bits that can be compared, for each page.

    Kernels show more that the package has no use for: PG_error, PG_idle, PG_arch_1 to PG_arch_3; and PG_mappedtodisk,
    until "mm: remember exclusively mapped anonymous pages with PG_anon_exclusive" (in v5.19) gave it a second meaning.

    From v6.10 to v6.18 at least, anonymous and KSM was what the low bits of folio->mapping said, whatever the page was
    used for: in slab, the word counts something else.
    """
    result = numpy.full(len(p.pages), sum(1 << bit for bit in KPF.values()), numpy.uint64)
    if opened.version < (5, 19):
        result &= ~numpy.uint64(1 << KPF["OWNER_2"])
    if (6, 10) <= opened.version < (6, 19):
        result[~formulas.has_mapping_word(p.heads)] &= ~numpy.uint64(1 << KPF["ANON"] | 1 << KPF["KSM"])
    return result


def expected_flags(opened: Opened, p: Pages) -> Column:
    """Return what /proc/kpageflags should show for each page, as far as :func:`compared`."""
    page, head = p.pages, p.heads
    # "fs/proc/page: use a folio in stable_page_flags()" (in v6.10): flags are the folio's, not the page's.
    by_folio = opened.version >= (6, 10)
    flags = head if by_folio else page
    bits: dict[str, Column] = {name: getattr(flags, fact) for name, fact in COPIED.items()}
    bits |= {
        "COMPOUND_HEAD": page.head & ~p.tail,
        "COMPOUND_TAIL": p.tail,
        "MMAP": formulas.folio_mapcount(head) > 0,
        "ANON": formulas.PageAnon(head),
        "KSM": formulas.PageKsm(head),
        "HUGE": formulas.PageHuge(head),
        "SWAPCACHE": formulas.folio_test_swapcache(head),
        "BUDDY": p.in_free_blocks,
        "SLAB": head.type == PageType.SLAB,
        "OFFLINE": page.type == PageType.OFFLINE,
        "PGTABLE": page.type == PageType.TABLE,
        "HWPOISON": page.hwpoison,
        "ZERO_PAGE": page.zero_page | head.huge_zero,
        "OWNER_2": flags.anon_exclusive,
    }
    compound = (page.head | p.tail) & ~bits["HUGE"]
    if by_folio:
        bits["THP"] = compound & head.large_rmappable
    else:
        bits["THP"] = compound & (head.lru | bits["ANON"])
    if opened.version >= (6, 17):
        # "fs: stable_page_flags(): use snapshot_page()" (in v6.17): of the folio's head.
        bits["PGTABLE"] = head.type == PageType.TABLE
        bits["OFFLINE"] = head.type == PageType.OFFLINE
    if by_folio and opened.version < (6, 19):
        # Tests mapping & PAGE_MAPPING_KSM, a mask of two bits of which one is set on every anonymous folio.
        bits["KSM"] = bits["ANON"]
    return word(bits, len(page))


def word(bits: Mapping[str, Column], length: int) -> Column:
    """Return flags by name as one word a page."""
    result = numpy.zeros(length, numpy.uint64)
    for name, column in bits.items():
        result |= column.astype(numpy.uint64) << numpy.uint64(KPF[name])
    return result


def names(flags: int) -> list[str]:
    """Return the names of the bits in a word of /proc/kpageflags, for messages."""
    return [name for name, bit in KPF.items() if flags >> bit & 1]
