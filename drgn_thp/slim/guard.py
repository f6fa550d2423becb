# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Tells the kernel's own pages from those with contents of processes and files, which no slim core may hold.

Free pages count as the latter: what was in them last is still there.
"""

from __future__ import annotations

import numpy
from drgn import FaultError, Program

from .. import formulas
from ..chunk import Chunk
from ..context import Context
from ..folios import Column, Folios
from ..memmap import Memmap
from ..pagetype import PageType
from ..rows import concatenate


class Guard:
    """
    Asks the struct pages of the source.

    :param source: Not the one that records: struct pages read in here are none of the analysis
    """

    def __init__(self, source: Program, context: Context) -> None:
        self._memmap = Memmap(source, context.layout, context.kernel)
        self._sections = context.sections

    def find_users(self, first: int, end: int) -> Column:
        """Return which of some page frames are not the kernel's own, or cannot be told to be."""
        found = []
        step = self._sections.pages_per_section
        for start in range(first - first % step, end, step):
            low, high = max(start, first), min(start + step, end)
            for pfn in range(low, high, self._memmap.pages_per_chunk):
                found.append(self._users(pfn, min(self._memmap.pages_per_chunk, high - pfn)))
        return numpy.concatenate(found) if found else numpy.zeros(0, numpy.int64)

    def _users(self, pfn: int, count: int) -> Column:
        pfns = numpy.arange(pfn, pfn + count)
        if self._sections.index(pfn) is None:
            return pfns  # memory without struct pages may be anybody's: a virtual machine's, for one
        try:
            chunk = self._memmap.read(pfn, count)
            return pfns[self._of_users(chunk)]
        except FaultError:
            return pfns

    def _of_users(self, chunk: Chunk) -> Column:
        memmap = self._memmap
        rows = memmap.rows(chunk, numpy.arange(chunk.count))
        f = memmap.folios(rows)
        result = _are_users(f)
        tails = numpy.flatnonzero(f.compound_word & numpy.uint64(1))
        if len(tails):
            # Whose a tail is, only its head knows.
            heads = [memmap.head_pfn(chunk.pfn + int(row)) for row in tails]
            distinct = sorted(set(heads))
            of_heads = memmap.folios(
                concatenate([memmap.rows(memmap.read(head, 1), numpy.array([0])) for head in distinct])
            )
            verdict = dict(zip(distinct, _are_users(of_heads).tolist()))
            result[tails] = [verdict[head] for head in heads]
        return result


def _are_users(f: Folios) -> Column:
    return formulas.is_user(f) | (f.type == PageType.BUDDY)
