# SPDX-License-Identifier: LGPL-2.1-or-later
"""The folios that are asked about: who holds them, and who maps them."""

from __future__ import annotations

import numpy

from .folios import Column

_COARSE_SHIFT = 9
_COARSE_BITS = 21


class Suspects:
    """
    Ranges of page frames that do not overlap, each a folio.

    :ivar start: Page frames of their heads, in ascending order
    :ivar end: Of the first page behind each
    """

    def __init__(self, heads: Column, pages: Column) -> None:
        self.start, first = numpy.unique(numpy.asarray(heads, numpy.int64), return_index=True)
        self.end = self.start + numpy.asarray(pages, numpy.int64)[first]
        # What a damaged dump says may overlap: a page is then of the folio that begins last.
        self.end[:-1] = numpy.minimum(self.end[:-1], self.start[1:])
        self._longest = int((self.end - self.start).max()) if len(self) else 0
        # Most pages of a host are no suspects: a look into a table of 2 MiB tells that of nearly all.
        self._coarse = numpy.zeros(1 << _COARSE_BITS, dtype=bool)
        low, high = self.start >> _COARSE_SHIFT, (self.end - 1) >> _COARSE_SHIFT
        for step in range(int((high - low).max()) + 1 if len(self) else 0):
            inside = low + step <= high
            self._coarse[(low[inside] + step) & ((1 << _COARSE_BITS) - 1)] = True

    def __len__(self) -> int:
        return len(self.start)

    @property
    def pages(self) -> Column:
        """Number of pages of each."""
        return self.end - self.start

    def number(self, pfn: int) -> int:
        """Return which of the folios a page is of, by number; -1 if none."""
        number = int(self.start.searchsorted(pfn, "right")) - 1
        return number if number >= 0 and pfn < self.end[number] else -1

    def find(self, pfn: Column, pages: int = 1) -> Column:
        """Return for each run of pages which of the folios it is of, by number; -1 where none."""
        result = numpy.full(len(pfn), -1, numpy.int64)
        if not len(self):
            return result
        maybe = numpy.flatnonzero((pfn < self.end[-1]) & (pfn + pages > self.start[0]))
        if pages <= 1 << _COARSE_SHIFT:  # and aligned, as entries are: it lies in one cell
            maybe = maybe[self._coarse[(pfn[maybe] >> _COARSE_SHIFT) & ((1 << _COARSE_BITS) - 1)]]
        if len(maybe):
            # The last folio that begins before the run's end is the only one that can reach into it.
            number = numpy.searchsorted(self.start, pfn[maybe] + pages, side="left") - 1
            result[maybe] = numpy.where((number >= 0) & (self.end[number] > pfn[maybe]), number, -1)
        return result
