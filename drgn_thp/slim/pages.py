# SPDX-License-Identifier: LGPL-2.1-or-later
"""A set of page frames, each with what it was read for: a byte per page, in regions that exist where pages do."""

from __future__ import annotations

from collections.abc import Iterator

import numpy

from ..folios import Column

REGION_SHIFT = 18
_REGION = 1 << REGION_SHIFT

NOTHING, SYMBOLS, STRUCT_PAGES, STRUCTURES = range(4)
KINDS = {
    STRUCT_PAGES: "struct pages",
    SYMBOLS: "symbols and types of the kernel",
    STRUCTURES: "other structures of the kernel, page tables",
}


class Pages:
    """Page frames, by kind."""

    def __init__(self) -> None:
        self._regions: dict[int, Column] = {}

    def __len__(self) -> int:
        return sum(self.counts().values())

    def _parts(self, first: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Yield the regions that a range of page frames lies in, with the part of each."""
        for region in range(first >> REGION_SHIFT, (end - 1 >> REGION_SHIFT) + 1):
            base = region << REGION_SHIFT
            yield region, max(first - base, 0), min(end - base, _REGION)

    def add(self, first: int, end: int, kind: int, overrule: bool = False) -> None:
        """
        Add a range of page frames.

        :param overrule: Whether pages that are here already become of this kind, too
        """
        for region, start, stop in self._parts(first, end):
            if region not in self._regions:
                self._regions[region] = numpy.zeros(_REGION, numpy.uint8)
            part = self._regions[region][start:stop]
            if overrule:
                part[:] = kind
            else:
                part[part == NOTHING] = kind

    def hold(self, first: int, end: int) -> bool:
        """Return whether all of a range is here."""
        return all(
            region in self._regions and bool(self._regions[region][start:stop].all())
            for region, start, stop in self._parts(first, end)
        )

    def drop(self, pfns: Column) -> None:
        """Take page frames out."""
        for pfn in pfns.tolist():
            self._regions[pfn >> REGION_SHIFT][pfn & _REGION - 1] = NOTHING

    def split(self, first: int, end: int) -> list[tuple[int, int, bool]]:
        """Return the longest parts of a range that are here, or not, as a whole."""
        held = numpy.concatenate(
            [
                self._regions[region][start:stop] != NOTHING
                if region in self._regions
                else numpy.zeros(stop - start, dtype=bool)
                for region, start, stop in self._parts(first, end)
            ]
        )
        edges = [0, *(numpy.flatnonzero(numpy.diff(held)) + 1).tolist(), end - first]
        return [(first + a, first + b, bool(held[a])) for a, b in zip(edges, edges[1:])]

    def runs(self) -> list[tuple[int, int]]:
        """Return the longest ranges of page frames that are here, in ascending order."""
        result: list[tuple[int, int]] = []
        for region in sorted(self._regions):
            base = region << REGION_SHIFT
            padded = numpy.concatenate(([False], self._regions[region] != NOTHING, [False]))
            edges = (numpy.flatnonzero(numpy.diff(padded)) + base).tolist()
            for start, end in zip(edges[::2], edges[1::2]):
                if result and result[-1][1] == start:
                    start = result.pop()[0]
                result.append((start, end))
        return result

    def counts(self) -> dict[int, int]:
        """Return the number of pages of each kind."""
        total = numpy.zeros(len(KINDS) + 1, numpy.int64)
        for region in self._regions.values():
            total += numpy.bincount(region, minlength=len(total))
        return {kind: int(total[kind]) for kind in KINDS}
