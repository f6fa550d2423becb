# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Struct pages, read: a range of page frames in pieces, or the folio of one page.

Pieces are of 2 MiB: smaller ones pay for the calls, larger ones leave the processor's cache.
"""

from __future__ import annotations

from dataclasses import replace

import numpy
from drgn import FaultError, Program

from .chunk import Chunk
from .folios import Column, Folios
from .kernel import Kernel
from .layout import Layout
from .live import Live, LiveFinder
from .pagetype import PageType
from .rows import FactReader, Rows

CHUNK_BYTES = 1 << 21
MAX_FOLIO_ORDER = 22  # 16 GiB of 4 KiB pages: the largest gigantic page of any supported architecture
_ALL_ONES = 0xFFFFFFFFFFFFFFFF


class Memmap:
    """The reader of one target's struct pages."""

    def __init__(self, prog: Program, layout: Layout, kernel: Kernel) -> None:
        self.prog = prog
        self.layout = layout
        self.kernel = kernel
        self.size = layout.page_struct_size
        self.pages_per_chunk = max(CHUNK_BYTES // self.size, 1)
        self.finder = LiveFinder(layout, kernel)
        self._facts = FactReader(layout, kernel)
        self._flags, self._word = layout.fields["flags"], layout.fields["compound_word"]
        self._head = layout.flag("head")

    def page_address(self, pfn: int) -> int:
        """Return the address of a page frame's ``struct page``."""
        return self.layout.vmemmap + pfn * self.size

    def read(self, pfn: int, count: int) -> Chunk:
        """
        Read the struct pages of consecutive page frames in one piece.

        :raises FaultError: if any of them cannot be read
        """
        return Chunk(pfn, count, self.prog.read(self.page_address(pfn), count * self.size), self.size)

    def free_until(self, pfn: int, end: int) -> int:
        """
        Return where the free blocks end that begin at a page frame, having looked only at the first page of each.

        The kernel's own scanners take a free block at its word in the same way.
        """
        # A struct page at a time is read here, so nothing but integers will do.
        read, size, address = self.prog.read, self.size, self.layout.vmemmap
        free_block = self.finder.free_block
        try:
            while pfn < end:
                pages = free_block(pfn, read(address + pfn * size, size))
                if not pages:
                    break
                pfn += pages
        except FaultError:
            pass  # whoever reads on counts that
        return min(pfn, end)

    def live(self, chunk: Chunk) -> Live:
        """Find the struct pages of a chunk that are folios in use, or typed, or frozen."""
        return self.finder.find(chunk)

    def folios(self, rows: Rows) -> Folios:
        """Return the table of facts of some folios."""
        return self._facts.folios(rows)

    def rows(self, chunk: Chunk, indices: Column) -> Rows:
        """Copy the struct pages of some folios of a chunk; ``indices`` are those of their heads."""
        matrix = numpy.frombuffer(chunk.data, numpy.uint8).reshape(chunk.count, chunk.size)
        first = matrix[indices]
        count = len(indices)
        pfn = indices.astype(numpy.int64) + chunk.pfn
        pages = [first] + [numpy.zeros_like(first) for _ in range(self.layout.struct_pages - 1)]
        order = numpy.zeros(count, numpy.int64)
        sums = numpy.zeros(count, numpy.int64)
        broken = numpy.zeros(count, dtype=bool)
        large = numpy.flatnonzero((self._facts.decode(self._flags, pages) & numpy.uint64(self._head)) != 0)
        if len(large):
            inside = indices[large] + 1 < chunk.count
            broken[large[~inside]] = True
            large = large[inside]
            pages[1][large] = matrix[indices[large] + 1]
            orders = self._facts.decode(self.layout.fields["order"], pages)[large].astype(numpy.int64)
            bad = (orders == 0) | (orders > MAX_FOLIO_ORDER)
            bad |= (pfn[large] & ((1 << numpy.minimum(orders, MAX_FOLIO_ORDER)) - 1)) != 0
            broken[large[bad]] = True
            pages[1][large[bad]] = 0
            large, orders = large[~bad], orders[~bad]
            order[large] = orders
            for i in range(2, self.layout.struct_pages):
                has = large[(1 << orders > i) & (indices[large] + i < chunk.count)]
                pages[i][has] = matrix[indices[has] + i]
            if not self.kernel.large_mapcount and len(large):
                sums[large] = self._subpage_mapcounts(chunk, indices[large], orders)
        return Rows(pfn, tuple(pages), order, sums, broken, numpy.zeros(count, dtype=bool))

    def is_cut_off(self, chunk: Chunk, live: Live) -> Column:
        """Return which of the folios that were found have facts in struct pages behind the end of the chunk."""
        result = numpy.zeros(len(live.rows), dtype=bool)
        heads = (live.state & self.finder.head).nonzero()[0]
        rows = self.rows(chunk, live.rows[heads])
        pages = numpy.int64(1) << rows.order
        if self.kernel.large_mapcount:
            needed = numpy.minimum(pages, self.layout.struct_pages)
        else:  # the total map count is a sum over all of them, but for hugetlb
            huge = self._facts.folios(rows).type == PageType.HUGETLB
            needed = numpy.where(huge, numpy.minimum(pages, self.layout.struct_pages), pages)
        result[heads] = live.rows[heads] + needed > chunk.count
        return result

    def _subpage_mapcounts(self, chunk: Chunk, heads: Column, orders: Column) -> Column:
        mapcounts = chunk.column(self.layout.fields["type_word"]).astype(numpy.int32).astype(numpy.int64) + 1
        running = numpy.concatenate(([0], numpy.cumsum(mapcounts)))
        ends = numpy.minimum(heads + (1 << orders), chunk.count)
        return running[ends] - running[heads]

    def read_folio(self, pfn: int) -> Rows:
        """
        Read the folio that a page frame belongs to, in one piece.

        How large that has to be is read before. If the folio is of another size by then, it is marked as changing.

        :return: A table of one row
        :raises FaultError: if a struct page cannot be read
        """
        head = self.head_pfn(pfn)
        first = numpy.array([0])
        chunk = self.read(head, 1)
        if not int(chunk.column(self._flags)[0]) & self._head:
            return self.rows(chunk, first)
        chunk = self.read(head, 2)
        order = int(self.rows(chunk, first).order[0])
        if pfn - head >> order:  # it claims to be a tail of a folio that does not reach so far
            return self.rows_of_page(pfn)
        count = min(1 << order, self.layout.struct_pages if self.kernel.large_mapcount else self.pages_per_chunk)
        rows = self.rows(self.read(head, max(count, 2)), first)
        return rows if rows.order[0] == order else replace(rows, changing=numpy.ones(1, dtype=bool))

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
        word = int(chunk.column(self._word)[0])
        address = self.page_address(pfn)
        if not word & 1:
            flags = int(chunk.column(self._flags)[0])
            if not (not self.layout.tails_hold_masks and flags & self._head):
                return pfn
            word = int(self.read(pfn + 1, 1).column(self._word)[0])
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
