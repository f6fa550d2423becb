# SPDX-License-Identifier: LGPL-2.1-or-later
"""Folios of a live target, read again: many of them, wherever they lie, and as they are now."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy
from drgn import FaultError

from .folios import Column, Folios
from .memmap import Memmap
from .rows import Rows, concatenate

GAP = 256
"""Page frames between two folios: if there are fewer, they are read in one piece. A read costs more than its bytes."""


@dataclass(frozen=True)
class Seen:
    """
    Struct pages where folios were.

    :ivar there: Which of them could be read; the table has rows of these only
    """

    there: Column
    rows: Rows


def read_again(memmap: Memmap, pfns: Column, orders: Column) -> Seen:
    """
    Read struct pages where folios were found before, whatever is there now.

    :param pfns: Their first page frames, ascending
    :param orders: What their orders were
    """
    ends = pfns + _needed(memmap, orders)
    there = numpy.ones(len(pfns), dtype=bool)
    parts = [Rows.none(memmap.layout)]
    for first, last in _pieces(pfns, ends, memmap.pages_per_chunk):
        start, end = int(pfns[first]), int(ends[first:last].max())
        try:
            chunk = memmap.read(start, end - start)
            parts.append(memmap.rows(chunk, pfns[first:last] - start))
        except FaultError:
            for i in range(first, last):
                try:
                    chunk = memmap.read(int(pfns[i]), int(ends[i] - pfns[i]))
                    parts.append(memmap.rows(chunk, numpy.zeros(1, numpy.int64)))
                except FaultError:
                    there[i] = False
    return Seen(there, concatenate(parts))


def is_tail(f: Folios) -> Column:
    """Return which rows are tails of other folios by now."""
    result: Column = (f.compound_word & numpy.uint64(1)) != 0
    return result


def _needed(memmap: Memmap, orders: Column) -> Column:
    """Return how many struct pages hold the facts of folios."""
    most = memmap.layout.struct_pages if memmap.kernel.large_mapcount else memmap.pages_per_chunk
    return numpy.minimum(numpy.int64(1) << orders, most)


def _pieces(pfns: Column, ends: Column, most: int) -> Iterator[tuple[int, int]]:
    """Yield which folios to read in one piece."""
    apart = (numpy.flatnonzero(pfns[1:] - ends[:-1] > GAP) + 1).tolist()
    for first, last in zip([0, *apart], [*apart, len(pfns)]):
        # Most are short.
        for i in range(first + 1, last) if last > first and ends[last - 1] - pfns[first] > most else ():
            if ends[i] - pfns[first] > most:
                yield first, i
                first = i
        if last > first:
            yield first, last
