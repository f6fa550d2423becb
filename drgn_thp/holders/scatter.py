# SPDX-License-Identifier: LGPL-2.1-or-later
"""Scatter lists: pieces of memory, as drivers and network protocols note them."""

from __future__ import annotations

import numpy

from ..folios import Column
from .ground import Ground
from .model import Damaged

ENTRY = "struct scatterlist"
MAX_PAGES = 1 << 24
"""In one list: 64 GiB."""
_BATCH = 128  # SG_MAX_SINGLE_ALLOC: so many are together
_CHAIN = 1  # SG_CHAIN: the rest is there
_FLAGS = 3  # SG_PAGE_LINK_MASK


class Scatter:
    """Reads them."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        names = ("page_link", "offset", "length")
        kinds = [ground.byteorder + kind for kind in ("u8", "u4", "u4")]
        offsets = [ground.offset(ENTRY, name) for name in names]
        size = ground.size(ENTRY)
        self._kind = numpy.dtype({"names": names, "formats": kinds, "offsets": offsets, "itemsize": size})

    def pages(self, first: int, count: int) -> Column:
        """
        Return the addresses of the ``struct page`` of each page that a list has a piece of.

        :param count: How many pieces there are
        :raises FaultError: if they cannot be read
        :raises Damaged: if it is no such list
        """
        return self.spread(*self.pieces(first, count))

    def pieces(self, first: int, count: int) -> tuple[Column, Column]:
        """Return the address of the first ``struct page`` of each piece, and of how many pages it is a part."""
        kernel, size, links = self._ground.context.kernel, self._kind.itemsize, 0
        pages, numbers = [numpy.zeros(0, numpy.uint64)], [numpy.zeros(0, numpy.int64)]
        while count:
            together = min(count, _BATCH)
            entries = numpy.frombuffer(self._ground.read(first, together * size), self._kind)
            chain = numpy.flatnonzero(entries["page_link"] & numpy.uint64(_CHAIN))
            if len(chain):
                first = int(entries["page_link"][chain[0]]) & ~_FLAGS
                entries = entries[: chain[0]]
                links += 1
                if links > MAX_PAGES // _BATCH:
                    raise Damaged("a scatter list does not end")
            else:
                first += together * size
            count -= len(entries)
            end = entries["offset"].astype(numpy.int64) + entries["length"]
            numbers.append((end + (1 << kernel.page_shift) - 1) >> kernel.page_shift)
            pages.append(entries["page_link"].astype(numpy.uint64) & ~numpy.uint64(_FLAGS))
        return numpy.concatenate(pages), numpy.concatenate(numbers)

    def spread(self, pages: Column, numbers: Column) -> Column:
        """Return each page of some pieces."""
        if numbers.sum() > MAX_PAGES:
            raise Damaged(f"a scatter list of {int(numbers.sum())} pages")
        within = numpy.arange(int(numbers.sum())) - numpy.repeat(numpy.cumsum(numbers) - numbers, numbers)
        size = numpy.uint64(self._ground.context.layout.page_struct_size)
        spread: Column = numpy.repeat(pages, numbers) + within.astype(numpy.uint64) * size
        return spread
