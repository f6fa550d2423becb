# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A first look at a chunk: which of its struct pages are folios that somebody uses?

Whatever is done for every struct page of a host is done here, so each look counts: two of them at all struct pages, a
third at those that pass, and none at what a free block or a large folio says it covers.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy

from .chunk import Chunk
from .errors import UnknownLayout
from .folios import Column
from .kernel import Kernel
from .layout import Field, Layout
from .pagetype import PageType

_ONE = numpy.uint64(1)
_SIGN = numpy.uint64(1 << 31)
_NO_ROWS = numpy.zeros(0, numpy.intp)
GROUP_ORDER = 9
GROUP = 1 << GROUP_ORDER  # struct pages that are skipped together, if at all


@dataclass(frozen=True)
class Live:
    """What a first look at a chunk finds: the struct pages that are folios in use, or typed, or frozen."""

    rows: Column
    """Their indices in the chunk."""
    state: Column
    """Their flags, as far as they matter to anything (``LiveFinder.state_mask``)."""
    counts: Column
    """Map count (or type) and reference count as one word."""
    mapping: Column
    poisoned: int
    """Struct pages of the chunk that were never initialised."""

    def select(self, rows: Column) -> Live:
        return Live(self.rows[rows], self.state[rows], self.counts[rows], self.mapping[rows], self.poisoned)


def _smallest_part(field: Field, mask: int) -> tuple[Field, Any]:
    """Return the lowest bytes of a field that hold a mask, and the mask: the less to look at, the faster."""
    width = next(width for width in (1, 2, 4, 8) if mask < 1 << 8 * width)
    dtype = numpy.dtype(f"{field.dtype.byteorder}u{width}")
    offset = field.offset + (8 - width if field.dtype.byteorder == ">" else 0)
    return Field(field.fact, field.page, offset, dtype, None, field.place), dtype.type(mask)


class LiveFinder:
    """Finds the folios of chunks."""

    def __init__(self, layout: Layout, kernel: Kernel) -> None:
        self.layout = layout
        self.kernel = kernel
        fields = layout.fields
        self._flags, self._word, self._mapping = fields["flags"], fields["compound_word"], fields["mapping"]
        type_word, refcount = fields["type_word"], fields["refcount"]
        offset = min(type_word.offset, refcount.offset)
        if {type_word.offset - offset, refcount.offset - offset} != {0, 4}:
            raise UnknownLayout("_mapcount and _refcount of struct page are not neighbours")
        self._counts = Field(type_word.fact, 0, offset, numpy.dtype(type_word.dtype.byteorder + "u8"), None, None)
        little = type_word.dtype.byteorder != ">"
        self._refcount_high = (refcount.offset > type_word.offset) == little
        # A free hugetlb folio has a type since v6.10; before, nothing but PG_head tells it from free memory.
        loud = layout.flag("locked") | (
            layout.flag("head") if layout.hugetlb_dtor is not None or layout.flag("hugetlb_flag") else 0
        )
        self._loud_part, self._loud = _smallest_part(self._flags, loud)
        self.head = numpy.uint64(layout.flag("head"))
        self._slab = numpy.uint64(layout.flag("slab_flag"))
        mask = layout.zone.mask << layout.zone.shift | layout.node.mask << layout.node.shift
        for name, bit in layout.flag_masks.items():
            mask |= 0 if layout.flag_pages[name] else bit
        self.state_mask = numpy.uint64(mask)
        # Where the flags word has 16 bits in a row that mean nothing to us, the kind of mapping can be put.
        shift = next((low for low in range(48) if not mask >> low & 0xFFFF), None)
        if shift is None:
            raise UnknownLayout("the flags word of struct page has no 16 spare bits in a row")
        self.kind_shift = numpy.uint64(shift)
        self._indices = _NO_ROWS
        self._order, self._private = fields["order"], fields["private"]
        words = numpy.zeros(0, numpy.uint64)
        self._nothing = Live(_NO_ROWS, words, words, words, 0)
        buddy = layout.types.test(PageType.BUDDY)
        if buddy is None:
            raise UnknownLayout("no page type for free pages (PG_buddy)")
        self._type_word, self._buddy_test = type_word, buddy
        order = ">" if type_word.dtype.byteorder == ">" else "<"
        self._unpack_type = struct.Struct(order + "I").unpack_from
        self._unpack_private = struct.Struct(order + "Q").unpack_from
        self._buddy_mask, self._buddy = map(numpy.uint32, buddy)
        self._lowest_untyped = layout.types.lowest_untyped
        hugetlb = layout.types.test(PageType.HUGETLB)
        self._hugetlb = None if hugetlb is None else (numpy.uint32(hugetlb[0]), numpy.uint32(hugetlb[1]))
        # A tail holds its head's address in compound_head, and only then do optimised hugetlb folios have fake heads.
        self._fake_heads = not layout.tails_hold_masks

    def find(self, chunk: Chunk) -> Live:
        """
        Find the struct pages of a chunk that describe something.

        A struct page without references and without a type, neither locked nor a head, is a free page behind the first
        of its buddies or on a per-CPU list, or a tail. (A folio that is frozen for migration or split has no
        references, but is locked; a free hugetlb folio of old kernels is a head.)
        """
        flags, counts = chunk.column(self._flags), chunk.column(self._counts)
        mapping = chunk.column(self._mapping)
        groups, heads = self._groups_to_look_at(chunk, flags, counts)
        if groups is None:
            counts = counts.copy()  # neighbours in memory from here on: it is looked at several times
            interesting = self._referenced_or_typed(counts)
            if numpy.count_nonzero(interesting) == chunk.count:
                if len(self._indices) < chunk.count:
                    self._indices = numpy.arange(chunk.count)
                rows = self._indices[: chunk.count]
                return self._live(chunk, rows, flags & self.state_mask, counts, mapping.copy())
            interesting |= (chunk.column(self._loud_part) & self._loud) != 0
            rows = interesting.nonzero()[0]
        elif not len(groups):
            if not len(heads):
                return self._nothing
            rows = heads
        else:
            shape = (-1, GROUP)
            interesting = self._referenced_or_typed(counts.reshape(shape)[groups])
            interesting |= (chunk.column(self._loud_part).reshape(shape)[groups] & self._loud) != 0
            found = interesting.reshape(-1).nonzero()[0]
            rows = groups[found >> GROUP_ORDER]
            rows <<= GROUP_ORDER
            found &= GROUP - 1
            rows += found
            if len(heads):
                rows = numpy.concatenate((rows, heads))
                rows.sort()
        return self._live(chunk, rows, flags[rows] & self.state_mask, counts[rows], mapping[rows])

    def _live(self, chunk: Chunk, rows: Column, state: Column, counts: Column, mapping: Column) -> Live:
        drop, poisoned = self._not_folios(chunk, rows, state, counts)
        if drop is not None:
            keep = (~drop).nonzero()[0]
            rows, state, counts, mapping = rows[keep], state[keep], counts[keep], mapping[keep]
        return Live(rows, state, counts, mapping, poisoned)

    def free_block(self, pfn: int, page: bytes) -> int:
        """Return the pages of the free block that begins with a struct page; 0 if there is none, or a small one."""
        mask, buddy = self._buddy_test
        if self._unpack_type(page, self._type_word.offset)[0] & mask != buddy:
            return 0
        order: int = self._unpack_private(page, self._private.offset)[0]
        if not GROUP_ORDER <= order <= self.kernel.max_page_order or pfn & (1 << order) - 1:
            return 0
        return 1 << order

    def _groups_to_look_at(self, chunk: Chunk, flags: Column, counts: Column) -> tuple[Column | None, Column]:
        """
        Skip what the kernel skips: free blocks and large folios say themselves how many struct pages they cover.

        :return: Which groups of struct pages have to be looked at one by one (None for all), and the heads of the large
            folios in the other groups
        """
        if chunk.pfn % GROUP or chunk.count % GROUP:
            return None, _NO_ROWS
        # The first struct page of each group, and for what a large folio keeps there, the second.
        counts = counts[::GROUP]
        free = (self._type_words(counts) & self._buddy_mask) == self._buddy
        large = (flags[::GROUP] & self.head) != 0
        if not numpy.count_nonzero(free | large):
            return None, _NO_ROWS
        order = numpy.where(free, chunk.column(self._private)[::GROUP], 0)
        if numpy.count_nonzero(large):
            large &= self._references(counts) > 0
            large &= (chunk.column(self._word)[::GROUP] & _ONE) == 0
            orders = chunk.column(self._order)[self._order.page :: GROUP]
            order = numpy.where(large, orders if self._order.mask is None else orders & self._order.mask, order)
        covering = ((order >= GROUP_ORDER) & (order <= self.kernel.max_page_order)).nonzero()[0]
        spans = 1 << order[covering].astype(numpy.intp) - GROUP_ORDER  # in groups
        aligned = covering % spans == 0
        covering, spans = covering[aligned], spans[aligned]
        if not len(covering):
            return None, _NO_ROWS
        look = numpy.ones(len(order) + int(spans.max()), dtype=bool)
        look[covering] = False
        for i in range(1, int(spans.max())):
            look[covering[spans > i] + i] = False
        look = look[: len(order)]
        groups = look.nonzero()[0]
        if 2 * len(groups) > len(order):  # picking them out would cost more than it saves
            return None, _NO_ROWS
        return groups, (large & ~look).nonzero()[0] * GROUP

    def _referenced_or_typed(self, counts: Column) -> Column:
        """
        Return which pairs of counts have a reference count, or a page type: not just a map count, as tails have.

        With the sign of the map count turned round, pairs without a reference and with a map count of -1 or more are
        neighbours, so that one comparison finds all others.
        """
        if not self._refcount_high:
            return (self._references(counts) != 0) | ~self._has_mapcount(counts)
        moved = counts ^ _SIGN
        moved -= _SIGN - _ONE
        return moved > _SIGN

    def _not_folios(self, chunk: Chunk, rows: Column, state: Column, counts: Column) -> tuple[Column | None, int]:
        """Return a mask of the rows that are no folios (None if all are), and how many were never initialised."""
        drop: Column | None = None
        poisoned = 0
        # Tails have no references of their own, and a poisoned struct page has -1.
        suspects = (self._references(counts) <= 0).nonzero()[0]
        if len(suspects):
            words = chunk.column(self._word)[rows[suspects]]
            tails = suspects[(words & _ONE) != 0]
            if len(tails):
                poisoned = int(numpy.count_nonzero(state[tails] == self.state_mask))
                drop = numpy.zeros(len(rows), dtype=bool)
                drop[tails] = True
        if self._fake_heads:
            heads = ((state & self.head) != 0).nonzero()[0]
            if len(heads):
                fakes = heads[self._is_fake_head(chunk, rows[heads])]
                if len(fakes):
                    drop = numpy.zeros(len(rows), dtype=bool) if drop is None else drop
                    drop[fakes] = True
        return drop, poisoned

    def _references(self, counts: Column) -> Column:
        """Return the reference counts in pairs of counts."""
        if self._refcount_high:
            return counts.view(numpy.int64) >> 32
        return counts.astype(numpy.uint32).view(numpy.int32)

    def _type_words(self, counts: Column) -> Column:
        """Return the words of map count and type in pairs of counts."""
        return (counts if self._refcount_high else counts >> numpy.uint64(32)).astype(numpy.uint32)

    def _has_mapcount(self, counts: Column) -> Column:
        """Return which pairs of counts have a map count, not a page type (PAGE_MAPCOUNT_RESERVE and above)."""
        return self._type_words(counts).view(numpy.int32) >= -128

    def has_mapping_word(self, state: Column, counts: Column) -> Column:
        """Return which rows have a ``mapping`` that means one: formulas.has_mapping_word(), before there are facts."""
        words = self._type_words(counts)
        result = words.view(numpy.int32) >= self._lowest_untyped
        if self._hugetlb is not None:
            result |= (words & self._hugetlb[0]) == self._hugetlb[1]
        if self._slab:
            result &= (state & self._slab) == 0
        return result

    def _is_fake_head(self, chunk: Chunk, heads: Column) -> Column:
        """
        Return which heads are really tails: page_fixed_fake_head().

        The tail struct pages of an optimised hugetlb folio are mapped onto the page that holds its head, so that each
        page-aligned one looks like a head. The next struct page tells whose it is.
        """
        addresses = numpy.uint64(self.layout.vmemmap) + (heads + chunk.pfn).astype(numpy.uint64) * numpy.uint64(
            chunk.size
        )
        following = numpy.minimum(heads + 1, chunk.count - 1)
        words = chunk.column(self._word)[following]
        points_away = ((words & numpy.uint64(1)) != 0) & (words - numpy.uint64(1) != addresses)
        aligned = (addresses & numpy.uint64(self.kernel.page_size - 1)) == 0
        result: Column = aligned & points_away & (heads + 1 < chunk.count)
        return result
