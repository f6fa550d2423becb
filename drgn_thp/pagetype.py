# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Page types: what a struct page is used for when it is not mapped, in the word that holds the map count otherwise.

Three encodings exist. Their codes are turned into one list of our own, so that nobody else has to know them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy

from .folios import Column


class PageType(IntEnum):
    """The types of all kernels, by the kernel's own words; the order is ours."""

    NONE = 0
    BUDDY = 1
    OFFLINE = 2
    TABLE = 3
    GUARD = 4
    HUGETLB = 5
    SLAB = 6
    ZSMALLOC = 7
    UNACCEPTED = 8
    LARGE_KMALLOC = 9
    KMEMCG = 10
    OTHER = 11
    """The word says that there is a type, but not one that we know."""


NAMES = tuple(t.name.lower().replace("_", "-") for t in PageType)

# Since v6.12 the top byte is an enumerator of enum pagetype.
TOP_BYTE_ENUMERATORS = {
    "PGTY_buddy": PageType.BUDDY,
    "PGTY_offline": PageType.OFFLINE,
    "PGTY_table": PageType.TABLE,
    "PGTY_guard": PageType.GUARD,
    "PGTY_hugetlb": PageType.HUGETLB,
    "PGTY_slab": PageType.SLAB,
    "PGTY_zsmalloc": PageType.ZSMALLOC,
    "PGTY_unaccepted": PageType.UNACCEPTED,
    "PGTY_large_kmalloc": PageType.LARGE_KMALLOC,
}

# In v6.11 the types were enumerators, too, but each a bit that is cleared.
CLEARED_BIT_ENUMERATORS = {
    "PG_buddy": PageType.BUDDY,
    "PG_offline": PageType.OFFLINE,
    "PG_table": PageType.TABLE,
    "PG_guard": PageType.GUARD,
    "PG_hugetlb": PageType.HUGETLB,
    "PG_slab": PageType.SLAB,
    "PG_zsmalloc": PageType.ZSMALLOC,
    "PG_unaccepted": PageType.UNACCEPTED,
}

# Before that they were macros. 18b2db3b0385 ("mm: Convert page kmemcg type to a page memcg flag") (in v5.11) took
# kmemcg out and moved table and guard down; v6.10 added hugetlb and slab.
MACRO_BITS_WITH_KMEMCG = {
    0x80: PageType.BUDDY,
    0x100: PageType.OFFLINE,
    0x200: PageType.KMEMCG,
    0x400: PageType.TABLE,
    0x800: PageType.GUARD,
}
MACRO_BITS = {
    0x80: PageType.BUDDY,
    0x100: PageType.OFFLINE,
    0x200: PageType.TABLE,
    0x400: PageType.GUARD,
    0x800: PageType.HUGETLB,
    0x1000: PageType.SLAB,
}


@dataclass(frozen=True)
class PageTypeEncoding:
    """One of the encodings, as the target's types tell."""

    top_byte: bool
    codes: tuple[tuple[int, PageType], ...]
    """Top byte or cleared bit, and what it stands for."""
    base: int = 0xF0000000
    """Bits that are set in every typed word of a cleared-bit encoding."""

    def test(self, page_type: PageType) -> tuple[int, int] | None:
        """Return mask and value by which ``word & mask == value`` tells a page type; None if there is none."""
        code = next((code for code, found in self.codes if found is page_type), None)
        if code is None:
            return None
        return (0xFF000000, code << 24) if self.top_byte else (self.base | code, self.base)

    @property
    def lowest_untyped(self) -> int:
        """The lowest word, as an ``int``, that is a map count: (int)0xff000000, or PAGE_MAPCOUNT_RESERVE."""
        return -0x01000000 if self.top_byte else -128

    def decode(self, words: Column) -> Column:
        """
        Return the page type of each word.

        :param words: ``unsigned int`` page_type of struct pages
        :return: Column of :class:`PageType`
        """
        signed = words.astype(numpy.int32)
        result = numpy.zeros(len(words), dtype=numpy.int8)
        typed = signed < self.lowest_untyped
        if not typed.any():
            return result
        result[typed] = PageType.OTHER
        for _, page_type in self.codes:
            test = self.test(page_type)
            assert test is not None
            result[typed & ((words & numpy.uint32(test[0])) == test[1])] = page_type
        return result
