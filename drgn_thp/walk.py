# SPDX-License-Identifier: LGPL-2.1-or-later
"""A walk over memory for the folios of some kind: those themselves, where a scan counts and judges all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Callable

from drgn import FaultError

from .blocks import Block, online_ranges, read_blocks
from .context import Context
from .folios import Column, Folios

Wanted = Callable[[Folios], Column]
_SMALLEST_READ = 64  # struct pages: where a read fails, this much is given up at least


class Walk:
    """
    Iterate over :meth:`folios` once; after that it is known what could not be read.

    :ivar unreadable: How many struct pages could not be read
    :ivar interrupted: Whether the user stopped it; what has been found until then stays found
    """

    def __init__(
        self,
        context: Context,
        blocks: Iterable[Block] | None = None,
        progress: Callable[[int], None] = lambda pages: None,
    ) -> None:
        """
        :param blocks: Where to look; all memory if None
        :param progress: Called with the number of page frames done
        """
        self.context = context
        self.unreadable = 0
        self.interrupted = False
        self._progress = progress
        runs = context.sections.runs()
        if blocks is None:
            blocks = read_blocks(context.prog, context.sections)[0]
        self._ranges = [part for block in blocks for part in online_ranges(block, runs)]

    @property
    def pages(self) -> int:
        """Page frames that it will go through."""
        return sum(end - start for start, end in self._ranges)

    def folios(self, wanted: Wanted) -> Iterator[Folios]:
        """
        Yield tables of the folios that are wanted, in ascending order.

        :param wanted: Called with the facts of some folios, returns a mask of them. What does not follow from struct
            pages alone (mappings, batches) is only in the tables that are yielded.
        """
        memmap = self.context.memmap
        try:
            for start, end in self._ranges:
                pfn, after_free = start, False
                while pfn < end:
                    if after_free:  # more of it may follow, which need not be read
                        beginning, pfn = pfn, memmap.free_until(pfn, end)
                        self._progress(pfn - beginning)
                        after_free = False
                        continue
                    count = min(memmap.pages_per_chunk - pfn % memmap.pages_per_chunk, end - pfn)
                    found, after_free = self._read(pfn, count, wanted)
                    yield from found
                    self._progress(count)
                    pfn += count
        except KeyboardInterrupt:
            self.interrupted = True

    def _read(self, pfn: int, count: int, wanted: Wanted, whole: bool = True) -> tuple[list[Folios], bool]:
        """Return tables of a piece, and whether all of it was free; where that fails, of its halves."""
        memmap = self.context.memmap
        try:
            chunk = memmap.read(pfn, count)
        except FaultError:
            if count <= _SMALLEST_READ:
                self.unreadable += count
                return [], False
            half = max(count // 2 // _SMALLEST_READ * _SMALLEST_READ, _SMALLEST_READ)
            first, _ = self._read(pfn, half, wanted, whole=False)
            second, _ = self._read(pfn + half, count - half, wanted, whole=False)
            return first + second, False
        live = memmap.live(chunk)
        if not whole:  # what lies behind the piece is not known, so neither is a folio that reaches there
            cut = memmap.is_cut_off(chunk, live)
            self.unreadable += int((chunk.count - live.rows[cut]).sum())
            live = live.select(~cut)
        if not len(live.rows):
            return [], True
        rows = memmap.rows(chunk, live.rows)
        mask = wanted(memmap.folios(rows))
        return ([self.context.folios(self.context.settled(rows.select(mask)))] if mask.any() else []), False
