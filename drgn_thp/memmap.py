# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Struct pages of a range of page frames → rows of folios → columns.

The memmap is read in pieces of 2 MiB: smaller ones pay for the calls, larger ones leave the processor's cache. Which
struct pages of a piece are folios worth decoding is found by a few looks at all of them; everything else is done for
those rows only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy
from drgn import Program

from .errors import UnknownLayout
from .folios import Column, Folios
from .kernel import Kernel
from .layout import Field, Layout
from .pagetype import PageType

CHUNK_BYTES = 1 << 21
MAX_FOLIO_ORDER = 22  # 16 GiB of 4 KiB pages: the largest gigantic page of any supported architecture
_ALL_ONES = 0xFFFFFFFFFFFFFFFF
_ONE = numpy.uint64(1)
_SIGN = numpy.uint64(1 << 31)
_NO_ROWS = numpy.zeros(0, numpy.intp)
GROUP_ORDER = 9
GROUP = 1 << GROUP_ORDER  # struct pages that are skipped together, if at all


@dataclass(frozen=True)
class Chunk:
    """The struct pages of consecutive page frames, as read."""

    pfn: int
    count: int
    data: bytes


@dataclass(frozen=True)
class Rows:
    """Struct pages of some folios: enough to decode every fact of them, long after their chunk is gone."""

    pfn: Column
    pages: tuple[Column, ...]
    """The first struct pages of each folio, as bytes; zero where the folio has fewer."""
    order: Column
    subpage_mapcounts: Column
    """Sum of ``_mapcount + 1`` over the pages of a large folio, on kernels that keep no total."""
    broken: Column
    """Heads that contradict themselves: an order that does not fit the page frame. Taken as order 0."""

    def __len__(self) -> int:
        return len(self.pfn)

    @staticmethod
    def none(layout: Layout) -> Rows:
        page = numpy.zeros((0, layout.page_struct_size), numpy.uint8)
        number = numpy.zeros(0, numpy.int64)
        return Rows(number, (page,) * layout.struct_pages, number, number, numpy.zeros(0, dtype=bool))

    def select(self, rows: Column) -> Rows:
        return Rows(
            self.pfn[rows],
            tuple(page[rows] for page in self.pages),
            self.order[rows],
            self.subpage_mapcounts[rows],
            self.broken[rows],
        )


def concatenate(parts: list[Rows]) -> Rows:
    """Return one table with the rows of several."""
    return Rows(
        numpy.concatenate([part.pfn for part in parts]),
        tuple(numpy.concatenate([part.pages[i] for part in parts]) for i in range(len(parts[0].pages))),
        numpy.concatenate([part.order for part in parts]),
        numpy.concatenate([part.subpage_mapcounts for part in parts]),
        numpy.concatenate([part.broken for part in parts]),
    )


@dataclass(frozen=True)
class Live:
    """What a first look at a chunk finds: the struct pages that are folios in use, or typed, or frozen."""

    rows: Column
    """Their indices in the chunk."""
    state: Column
    """Their flags, as far as they matter to anything (``Memmap.state_mask``)."""
    counts: Column
    """Map count (or type) and reference count as one word."""
    mapping: Column
    poisoned: int
    """Struct pages of the chunk that were never initialised."""


def _smallest_part(field: Field, mask: int) -> tuple[Field, Any]:
    """Return the lowest bytes of a field that hold a mask, and the mask: the less to look at, the faster."""
    width = next(width for width in (1, 2, 4, 8) if mask < 1 << 8 * width)
    dtype = numpy.dtype(f"{field.dtype.byteorder}u{width}")
    offset = field.offset + (8 - width if field.dtype.byteorder == ">" else 0)
    return Field(field.fact, field.page, offset, dtype, None, field.place), dtype.type(mask)


class Memmap:
    """The bulk reader of one target's struct pages."""

    def __init__(self, prog: Program, layout: Layout, kernel: Kernel) -> None:
        self.prog = prog
        self.layout = layout
        self.kernel = kernel
        self.size = layout.page_struct_size
        self.pages_per_chunk = max(CHUNK_BYTES // self.size, 1)
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
        self._indices = numpy.arange(self.pages_per_chunk)
        self._order, self._private = fields["order"], fields["private"]
        words = numpy.zeros(0, numpy.uint64)
        self._nothing = Live(_NO_ROWS, words, words, words, 0)
        buddy = layout.types.test(PageType.BUDDY)
        if buddy is None:
            raise UnknownLayout("no page type for free pages (PG_buddy)")
        self._buddy_mask, self._buddy = map(numpy.uint32, buddy)
        # A tail holds its head's address in compound_head, and only then do optimised hugetlb folios have fake heads.
        self._fake_heads = not layout.tails_hold_masks
        self._struct_pages = layout.struct_pages

    def page_address(self, pfn: int) -> int:
        """Return the address of a page frame's ``struct page``."""
        return self.layout.vmemmap + pfn * self.size

    def read(self, pfn: int, count: int) -> Chunk:
        """
        Read the struct pages of consecutive page frames in one piece.

        :raises FaultError: if any of them cannot be read
        """
        return Chunk(pfn, count, self.prog.read(self.page_address(pfn), count * self.size))

    def _column(self, chunk: Chunk, field: Field) -> Column:
        return numpy.ndarray((chunk.count,), field.dtype, chunk.data, field.offset, (self.size,))

    def live(self, chunk: Chunk) -> Live:
        """
        Find the struct pages of a chunk that describe something.

        A struct page without references and without a type, neither locked nor a head, is a free page behind the first
        of its buddies or on a per-CPU list, or a tail. (A folio that is frozen for migration or split has no
        references, but is locked; a free hugetlb folio of old kernels is a head.)
        """
        flags, counts = self._column(chunk, self._flags), self._column(chunk, self._counts)
        mapping = self._column(chunk, self._mapping)
        groups, heads = self._groups_to_look_at(chunk, flags, counts)
        if groups is None:
            counts = counts.copy()  # neighbours in memory from here on: it is looked at several times
            interesting = self._referenced_or_typed(counts)
            if interesting.all():
                rows = self._indices[: chunk.count]
                return self._live(chunk, rows, flags & self.state_mask, counts, mapping.copy())
            interesting |= (self._column(chunk, self._loud_part) & self._loud) != 0
            rows = interesting.nonzero()[0]
        elif not len(groups):
            if not len(heads):
                return self._nothing
            rows = heads
        else:
            shape = (-1, GROUP)
            interesting = self._referenced_or_typed(counts.reshape(shape)[groups])
            interesting |= (self._column(chunk, self._loud_part).reshape(shape)[groups] & self._loud) != 0
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
        order = numpy.where(free, self._column(chunk, self._private)[::GROUP], 0)
        large = (flags[::GROUP] & self.head) != 0
        if large.any():
            large &= self._references(counts) > 0
            large &= (self._column(chunk, self._word)[::GROUP] & _ONE) == 0
            orders = self._column(chunk, self._order)[self._order.page :: GROUP]
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
            words = self._column(chunk, self._word)[rows[suspects]]
            tails = suspects[(words & _ONE) != 0]
            if len(tails):
                poisoned = int(numpy.count_nonzero(state[tails] == self.state_mask))
                drop = numpy.zeros(len(rows), dtype=bool)
                drop[tails] = True
        if self._fake_heads:
            heads = (state & self.head).nonzero()[0]
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

    def untyped(self, state: Column, counts: Column) -> Column:
        """Return which rows have a map count, not a page type, and are not slab."""
        result = self._has_mapcount(counts)
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
            self.size
        )
        following = numpy.minimum(heads + 1, chunk.count - 1)
        words = self._column(chunk, self._word)[following]
        points_away = ((words & numpy.uint64(1)) != 0) & (words - numpy.uint64(1) != addresses)
        aligned = (addresses & numpy.uint64(self.kernel.page_size - 1)) == 0
        result: Column = aligned & points_away & (heads + 1 < chunk.count)
        return result

    def rows(self, chunk: Chunk, indices: Column) -> Rows:
        """Copy the struct pages of some folios of a chunk; ``indices`` are those of their heads."""
        matrix = numpy.frombuffer(chunk.data, numpy.uint8).reshape(chunk.count, self.size)
        first = matrix[indices]
        count = len(indices)
        pfn = indices.astype(numpy.int64) + chunk.pfn
        pages = [first] + [numpy.zeros_like(first) for _ in range(self._struct_pages - 1)]
        order = numpy.zeros(count, numpy.int64)
        sums = numpy.zeros(count, numpy.int64)
        broken = numpy.zeros(count, dtype=bool)
        large = numpy.flatnonzero((self._decode(self._flags, pages) & self.head) != 0)
        if len(large):
            inside = indices[large] + 1 < chunk.count
            broken[large[~inside]] = True
            large = large[inside]
            pages[1][large] = matrix[indices[large] + 1]
            orders = self._decode(self.layout.fields["order"], pages)[large].astype(numpy.int64)
            bad = (orders == 0) | (orders > MAX_FOLIO_ORDER)
            bad |= (pfn[large] & ((1 << numpy.minimum(orders, MAX_FOLIO_ORDER)) - 1)) != 0
            broken[large[bad]] = True
            pages[1][large[bad]] = 0
            large, orders = large[~bad], orders[~bad]
            order[large] = orders
            for i in range(2, self._struct_pages):
                has = large[(1 << orders > i) & (indices[large] + i < chunk.count)]
                pages[i][has] = matrix[indices[has] + i]
            if not self.kernel.large_mapcount and len(large):
                sums[large] = self._subpage_mapcounts(chunk, indices[large], orders)
        return Rows(pfn, tuple(pages), order, sums, broken)

    def _subpage_mapcounts(self, chunk: Chunk, heads: Column, orders: Column) -> Column:
        mapcounts = self._column(chunk, self.layout.fields["type_word"]).astype(numpy.int32).astype(numpy.int64) + 1
        running = numpy.concatenate(([0], numpy.cumsum(mapcounts)))
        ends = numpy.minimum(heads + (1 << orders), chunk.count)
        result: Column = running[ends] - running[heads]
        return result

    def _decode(self, field: Field, pages: Any) -> Column:
        page = pages[field.page]
        if not len(page):
            return numpy.zeros(0, field.dtype)
        column: Column = numpy.ndarray((len(page),), field.dtype, page, field.offset, (self.size,))
        return column if field.mask is None else column & field.dtype.type(field.mask)

    def folios(self, rows: Rows) -> Folios:
        """Return the table of facts of some folios."""
        return Folios(len(rows), self.kernel, lambda name: self._fact(rows, name))

    def _fact(self, rows: Rows, name: str) -> Column:
        layout = self.layout
        if name in layout.flag_masks:
            page = layout.flag_pages[name]
            word = self._fact(rows, "large_flags" if page else "flags")
            return (word & numpy.uint64(layout.flag_masks[name])) != 0
        if name in ("pfn", "order", "subpage_mapcounts", "broken"):
            column: Column = getattr(rows, name)
            return column
        if name == "type":
            return self._type(rows)
        if name == "zone":
            return layout.zone.of(self._fact(rows, "flags")).astype(numpy.int64)
        if name == "node":
            return layout.node.of(self._fact(rows, "flags")).astype(numpy.int64)
        if name == "hugetlb_migratable_flag":
            return self._hugetlb_migratable_flag(rows)
        fact = layout.facts.get(name)
        if fact is None:
            raise AttributeError(f"no fact {name!r}")
        field = layout.fields.get(name)
        if field is None:
            return numpy.full(len(rows), fact.absent)
        column = self._decode(field, rows.pages).astype(numpy.int64 if field.dtype.kind == "i" else numpy.uint64)
        if fact.bias:
            column = column + fact.bias
        if fact.large_only:
            column = numpy.where((rows.order > 0) & (1 << rows.order > field.page), column, fact.absent)
        return column

    def _type(self, rows: Rows) -> Column:
        layout = self.layout
        types = layout.types.decode(self._decode(layout.fields["type_word"], rows.pages))
        types[self._fact(rows, "slab_flag")] = PageType.SLAB
        if layout.hugetlb_dtor is not None:
            huge = (rows.order > 0) & (self._fact(rows, "compound_dtor") == layout.hugetlb_dtor)
            types[huge] = PageType.HUGETLB
        types[self._fact(rows, "hugetlb_flag")] = PageType.HUGETLB
        return types

    def _hugetlb_migratable_flag(self, rows: Rows) -> Column:
        """Return HPG_migratable: a bit of ``private``; until v5.12 PG_private of the first tail page ("active")."""
        bit = self.layout.enumerators.get("HPG_migratable")
        if bit is None:
            return (self._fact(rows, "large_flags") & numpy.uint64(self.layout.flag("private_flag"))) != 0
        return (self._fact(rows, "private") & numpy.uint64(1 << bit)) != 0

    def read_folio(self, pfn: int) -> Rows:
        """
        Read the folio that a page frame belongs to, in one piece.

        :return: A table of one row
        :raises FaultError: if a struct page cannot be read
        """
        head = self.head_pfn(pfn)
        first = numpy.array([0])
        chunk = self.read(head, 1)
        if not int(self._column(chunk, self._flags)[0]) & int(self.head):
            return self.rows(chunk, first)
        chunk = self.read(head, 2)
        order = int(self.rows(chunk, first).order[0])
        count = min(1 << order, self._struct_pages if self.kernel.large_mapcount else self.pages_per_chunk)
        return self.rows(self.read(head, max(count, 2)), first)

    def rows_of_page(self, pfn: int) -> Rows:
        """
        Read one struct page for itself, whatever folio it belongs to.

        :raises FaultError: if it cannot be read
        """
        return self.rows(self.read(pfn, 1), numpy.array([0]))

    def head_pfn(self, pfn: int) -> int:
        """
        Return the page frame of the head of a page's folio: compound_head().

        :raises FaultError: if a struct page cannot be read
        """
        chunk = self.read(pfn, 1)
        word = int(self._column(chunk, self._word)[0])
        address = self.page_address(pfn)
        if not word & 1:
            flags = int(self._column(chunk, self._flags)[0])
            if not (self._fake_heads and flags & int(self.head)):
                return pfn
            word = int(self._column(self.read(pfn + 1, 1), self._word)[0])
            if not word & 1:
                return pfn
        if word == _ALL_ONES:  # never initialised
            return pfn
        head = address & word if self.layout.tails_hold_masks and is_mask(word, self.size) else word - 1
        offset = head - self.layout.vmemmap
        if offset < 0 or offset % self.size or offset // self.size > pfn:
            return pfn
        return offset // self.size


def is_mask(word: int, size: int) -> bool:
    """
    Return whether a tail's compound_info is a mask for its own address, not the head's address.

    A mask has all bits set from some power of two upwards, which is at least two struct pages.
    """
    low = (~(word & ~1) + 1) & _ALL_ONES
    return low & (low - 1) == 0 and low >= 2 * size
