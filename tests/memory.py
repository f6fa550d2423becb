# SPDX-License-Identifier: LGPL-2.1-or-later
"""A memmap of our own making, for states that no guest can be brought into."""

from __future__ import annotations

import struct
from dataclasses import replace

import numpy
from drgn import Architecture, Platform, PlatformFlags, Program

from drgn_thp.facts import FACTS, FLAGS, At, Fact
from drgn_thp.kernel import Kernel
from drgn_thp.layout import BitField, Field, Layout
from drgn_thp.memmap import Memmap
from drgn_thp.pagetype import MACRO_BITS, PageType, PageTypeEncoding

VMEMMAP = 0xFFFFEA0000000000
SIZE = 64

# Where Linux 6.12 keeps facts, on x86-64.
_PLACES = {
    "flags": (0, 0),
    "compound_word": (0, 8),
    "mapping": (0, 24),
    "private": (0, 40),
    "type_word": (0, 48),
    "refcount": (0, 52),
    "large_flags": (1, 0),
    "order": (1, 0),
    "large_mapcount": (1, 16),
    "entire_mapcount": (1, 20),
    "nr_pages_mapped": (1, 24),
    "pincount": (1, 28),
}
_BITS = {
    "locked": 0,
    "writeback": 1,
    "dirty": 4,
    "lru": 5,
    "head": 6,
    "owner_priv_1": 10,
    "swapcache_bit": 10,
    "reserved": 13,
    "private_flag": 14,
    "swapbacked": 17,
}
TOP_BYTE = PageTypeEncoding(True, ((0xF0, PageType.BUDDY), (0xF4, PageType.HUGETLB), (0xF5, PageType.SLAB)))
CLEARED_BITS = PageTypeEncoding(False, tuple(MACRO_BITS.items()))


def layout(masks: bool = False, types: PageTypeEncoding = TOP_BYTE, hugetlb_dtor: int | None = None) -> Layout:
    """
    Return a layout like that of Linux 6.12.

    :param masks: Tails hold masks for their own address, as since v7.1
    """

    facts: dict[str, Fact] = {fact.name: fact for fact in FACTS}
    fields = {
        name: Field(facts[name], page, offset, numpy.dtype("<" + facts[name].dtype), None, At("struct page", name))
        for name, (page, offset) in _PLACES.items()
    }
    fields["order"] = replace(fields["order"], mask=0xFF)
    return Layout(
        page_struct_size=SIZE,
        vmemmap=VMEMMAP,
        fields=fields,
        facts=facts,
        flag_masks={flag.name: 1 << _BITS[flag.name] if flag.name in _BITS else 0 for flag in FLAGS},
        flag_pages={flag.name: flag.page for flag in FLAGS},
        tails_hold_masks=masks,
        types=types,
        hugetlb_dtor=hugetlb_dtor,
        zone=BitField(51, 7),
        node=BitField(54, 1023),
        zone_names=("DMA", "DMA32", "NORMAL", "MOVABLE", "DEVICE"),
        enumerators={},
    )


class Memory:
    """Struct pages that a test writes one by one."""

    def __init__(self, pages: int, layout_: Layout, kernel: Kernel, first_pfn: int = 0) -> None:
        self.layout = layout_
        self.kernel = kernel
        self.first_pfn = first_pfn
        self.pages = pages
        self.data = bytearray(pages * SIZE)
        for pfn in range(first_pfn, first_pfn + pages):
            self.put(pfn)

    def put(
        self,
        pfn: int,
        *flags: str,
        refcount: int = 0,
        mapcount: int = 0,
        type_word: int | None = None,
        mapping: int = 0,
        private: int = 0,
        word: int = 0,
        raw_flags: int = 0,
    ) -> None:
        """Write a struct page."""
        bits = raw_flags | 3 << 51
        for flag in flags:
            bits |= 1 << _BITS[flag]
        low = (mapcount - 1) & 0xFFFFFFFF if type_word is None else type_word
        page = struct.pack("<QQQQQQIi8x", bits, word, 0, mapping, 0, private, low, refcount)
        at = (pfn - self.first_pfn) * SIZE
        self.data[at : at + SIZE] = page

    def tail_word(self, head: int, order: int) -> int:
        """Return what the tails of a folio hold: the head's address, or a mask, and bit 0."""
        if self.layout.tails_hold_masks:
            return (-(SIZE << order)) & 0xFFFFFFFFFFFFFFFF | 1
        return VMEMMAP + head * SIZE | 1

    def compound(self, head: int, order: int, *flags: str, tails: int | None = None, **facts: int) -> None:
        """
        Write a compound page.

        :param tails: How many tail struct pages to write; all of them if None
        """
        self.put(head, "head", *flags, **facts)
        for i in range(1, 1 << order if tails is None else tails + 1):
            self.put(head + i, word=self.tail_word(head, order))
        at = (head + 1 - self.first_pfn) * SIZE
        struct.pack_into("<Q", self.data, at, order)
        struct.pack_into("<ii", self.data, at + 16, facts.get("mapcount", 0) - 1, -1)
        struct.pack_into("<ii", self.data, at + 24, 0, 0)

    def memmap(self) -> Memmap:
        """Return a reader of it."""
        flags = PlatformFlags.IS_64_BIT | PlatformFlags.IS_LITTLE_ENDIAN
        prog = Program(Platform(Architecture.X86_64, flags))
        data = bytes(self.data)
        start = VMEMMAP + self.first_pfn * SIZE
        prog.add_memory_segment(
            start, len(data), lambda address, count, offset, physical: data[offset : offset + count]
        )
        return Memmap(prog, self.layout, self.kernel)
