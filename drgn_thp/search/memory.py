# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The kernel's own memory, chosen by the memmap, and one pass over it for pointers into some ranges.

Free blocks are left out, what processes and files have, page tables, and the memmap itself, whose tail pages hold the
addresses of their heads. Pages without a reference are not: those behind the first of an allocation that is no compound
page have none.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy
from drgn import FaultError

from .. import formulas
from ..blocks import online_ranges, read_blocks
from ..chunk import Chunk
from ..context import Context
from ..folios import Column
from ..layout import is_little_endian
from ..pagetype import PageType

PIECE = 512
"""Pages that are read at a time."""
MAX_HITS = 1 << 16
MAX_HITS_EACH = 64
"""Pointers into one range that are kept: hundreds of them lead nowhere."""
_LEFT_OUT = (PageType.BUDDY, PageType.OFFLINE, PageType.TABLE, PageType.GUARD, PageType.HUGETLB, PageType.UNACCEPTED)
_SMALLEST_READ = 64  # struct pages: where a read fails, this much is given up at least


class Late(Exception):
    """There is no more time."""


@dataclass
class Memory:
    """
    Pages of the kernel's own.

    :ivar unreadable: Pages that could not be read, or whose struct page could not
    :ivar dropped: Pointers that were found and not kept, because there were too many
    """

    context: Context
    deadline: float
    unreadable: int = 0
    dropped: int = 0
    pages: int = 0
    _runs: list[tuple[int, int, bool]] = field(default_factory=list)
    """First page, number of pages, and whether they are reserved: these may be no memory at all."""

    def choose(self) -> None:
        """
        Look through the memmap.

        :raises Late: if there is no more time
        """
        context, memmap = self.context, self.context.memmap
        own = self._memmap()
        runs = context.sections.runs()
        for block in read_blocks(context.prog, context.sections)[0]:
            for start, end in online_ranges(block, runs):
                pfn = memmap.free_until(start, end)
                while pfn < end:
                    self.check()
                    count = min(memmap.pages_per_chunk - pfn % memmap.pages_per_chunk, end - pfn)
                    self._choose(pfn, count, own)
                    pfn = memmap.free_until(pfn + count, end)

    def check(self) -> None:
        """:raises Late: if there is no more time"""
        if time.monotonic() > self.deadline:
            raise Late

    def _memmap(self) -> Column:
        """Return the page frames that the memmap begins in, of each section."""
        context, found = self.context, []
        per_section = context.sections.pages_per_section
        pages = per_section * context.layout.page_struct_size >> context.kernel.page_shift
        for number in context.sections.number.tolist():
            try:
                first = context.virtual_to_pfn(context.memmap.page_address(number * per_section))
            except FaultError:
                continue
            found.append(numpy.arange(first, first + pages))
        return numpy.sort(numpy.concatenate(found)) if found else numpy.zeros(0, numpy.int64)

    def _choose(self, pfn: int, count: int, own: Column) -> None:
        try:
            chunk = self.context.memmap.read(pfn, count)
        except FaultError:
            if count <= _SMALLEST_READ:
                self.unreadable += count
                return
            half = max(count // 2 // _SMALLEST_READ * _SMALLEST_READ, _SMALLEST_READ)
            self._choose(pfn, half, own)
            self._choose(pfn + half, count - half, own)
            return
        chosen = self._wanted(chunk)
        low, high = numpy.searchsorted(own, [pfn, pfn + count])
        chosen[own[low:high] - pfn] = 0
        edges = numpy.flatnonzero(numpy.diff(numpy.concatenate(([0], chosen, [0])))).tolist()
        self._runs += ((pfn + a, b - a, chosen[a] == 2) for a, b in zip(edges, edges[1:]) if chosen[a])
        self.pages += int(numpy.count_nonzero(chosen))

    def _wanted(self, chunk: Chunk) -> Column:
        """Return of each page of a chunk whether it may hold structures of the kernel: 0, 1, or 2 if it is reserved."""
        memmap, layout = self.context.memmap, self.context.layout
        change = numpy.zeros(chunk.count + 1, numpy.int64)
        rows = memmap.live(chunk).rows
        f = memmap.folios(memmap.rows(chunk, rows))
        out = (f.lru != 0) | formulas.PageAnon(f) | numpy.isin(f.type, _LEFT_OUT)
        size = numpy.int64(1) << f.order.astype(numpy.int64)
        buddy = layout.types.test(PageType.BUDDY)
        assert buddy is not None
        words = chunk.column(layout.fields["type_word"]).astype(numpy.uint32)
        free = numpy.flatnonzero((words & numpy.uint32(buddy[0])) == numpy.uint32(buddy[1]))
        orders = chunk.column(layout.fields["private"]).astype(numpy.uint64)[free]
        orders = numpy.where(orders <= self.context.kernel.max_page_order, orders, 0).astype(numpy.int64)
        for first, pages in ((rows[out], size[out]), (free, numpy.int64(1) << orders)):
            numpy.add.at(change, first, 1)
            numpy.add.at(change, numpy.minimum(first + pages, chunk.count), -1)
        wanted: Column = (numpy.cumsum(change[:-1]) == 0).astype(numpy.int8)
        reserved = rows[f.reserved.astype(bool)]
        wanted[reserved] *= 2
        return wanted

    def pointers(self, low: Column, high: Column) -> tuple[Column, Column, Column]:
        """
        Return every pointer into some ranges: which of them, its value, and the physical address it is at.

        :param low: Where the ranges begin, in ascending order; they do not overlap
        :param high: Where they end
        :raises Late: if there is no more time
        """
        found: list[tuple[Column, Column, Column]] = []
        each = numpy.zeros(len(low), numpy.int64)
        total = 0
        if len(low):
            for address, words in self._pieces():
                near = numpy.flatnonzero((words >= low[0]) & (words < high[-1]))
                values = words[near]
                number = numpy.searchsorted(low, values, "right") - 1
                good = numpy.flatnonzero(values < high[number])
                good = good[each[number[good]] < MAX_HITS_EACH]
                if len(good) + total > MAX_HITS:
                    self.dropped += len(good) + total - MAX_HITS
                    good = good[: MAX_HITS - total]
                if len(good):
                    numpy.add.at(each, number[good], 1)
                    total += len(good)
                    found.append((number[good], values[good], address + 8 * near[good].astype(numpy.int64)))
        if not found:
            return (numpy.zeros(0, numpy.int64), numpy.zeros(0, numpy.uint64), numpy.zeros(0, numpy.int64))
        return (
            numpy.concatenate([part[0] for part in found]),
            numpy.concatenate([part[1] for part in found]),
            numpy.concatenate([part[2] for part in found]),
        )

    def _pieces(self) -> Iterator[tuple[int, Column]]:
        """Yield the pages that were chosen as words, and where each piece is."""
        dtype = "<u8" if is_little_endian(self.context.prog) else ">u8"
        readable: list[tuple[int, int, bool]] = []
        for first, count, reserved in self._runs:
            for pfn in range(first, first + count, PIECE):
                self.check()
                for start, data in self._read(pfn, min(PIECE, first + count - pfn), reserved):
                    readable.append((start, len(data) >> self.context.kernel.page_shift, reserved))
                    yield start << self.context.kernel.page_shift, numpy.frombuffer(data, dtype)
        self._runs = readable  # what could not be read is not tried, nor counted, again

    def _read(self, pfn: int, count: int, reserved: bool) -> Iterator[tuple[int, bytes]]:
        shift = self.context.kernel.page_shift
        try:
            yield pfn, self.context.prog.read(pfn << shift, count << shift, True)
        except FaultError:
            if count == 1:
                self.unreadable += not reserved
                return
            yield from self._read(pfn, count // 2, reserved)
            yield from self._read(pfn + count // 2, count - count // 2, reserved)
