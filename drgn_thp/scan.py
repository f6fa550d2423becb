# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The scan: every folio of every memory block, judged on the paths asked for.

Memory stays flat however large the host: of most folios only a count remains, and only those that are refused are kept,
until their block has been handed out.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Callable

import numpy
from drgn import FaultError

from .blocks import Block, block_as_is, online_ranges
from .census import BlockCensus, Obstacles, PathCensus, Tally
from .chunk import Chunk
from .classes import MAX_CLASSES, UNKNOWN, Classes
from .context import Context
from .folios import Column, Folios
from .gates import Path, Reason
from .live import Live
from .looks import Glance, Looks
from .mappings import low_kinds
from .rows import Rows, concatenate
from .settle import contradicts

PENDING_ROWS = 32768
"""How many folios wait to be judged together: one call of numpy costs as much for one as for a few hundred."""
KEPT_ROWS = 32768
"""How many refused folios may wait until their blocks are handed out."""
HELD_CHUNKS = 12
MAX_WAITING = 4096
"""How many blocks may wait to be handed out."""
BLOCK_TRIES = 3
"""How often a block of a live target is read that goes on- or offline meanwhile."""
_SMALLEST_READ = 64  # struct pages: where a read fails, this much is given up at least


@dataclass
class _Open:
    """A block whose folios are not all judged yet."""

    census: BlockCensus
    weights: Column
    """Folios by class."""
    kept: list[Rows] = field(default_factory=list)
    obstacles: list[Obstacles] | None = None
    """What alloc_contig_range() refuses; None if only the number is wanted."""
    counted_before: bool = False
    """The folio that reaches into it was counted, and kept, in an earlier block."""


@dataclass
class _Pending:
    """Folios that wait to be judged: large ones, and those for which more counts than what they look like."""

    open: _Open
    rows: Rows
    looks: Looks


@dataclass
class _Held:
    """A chunk with folios of classes that are not judged yet, held back in case they are wanted themselves."""

    open: _Open
    chunk: Chunk
    rows: Column
    numbers: Column
    """Class of each run of folios that look alike ..."""
    lengths: Column
    """... and how long it is."""


def _runs(live: Live) -> tuple[Column, Column]:
    """Return where runs of rows with the same words begin, and how long each is."""
    changes = live.state[1:] != live.state[:-1]
    changes |= live.counts[1:] != live.counts[:-1]
    changes |= live.mapping[1:] != live.mapping[:-1]
    ends = changes.nonzero()[0]
    starts = numpy.empty(len(ends) + 1, numpy.intp)
    starts[0] = 0
    starts[1:] = ends + 1
    lengths = numpy.empty_like(starts)
    lengths[:-1] = starts[1:] - starts[:-1]
    lengths[-1] = len(live.rows) - starts[-1]
    return starts, lengths


def _keep_freed_memory() -> None:
    """
    Make glibc's malloc keep what is freed, instead of giving it back and having new pages cleared for every column.

    Once a block of some size has been freed, mallopt(3)'s dynamic thresholds keep blocks up to that size on the heap,
    and twice as much of it untrimmed. The block itself is never touched.
    """
    bytes(16 << 20)


class Scan:
    """
    One pass over memory.

    :param paths: Paths to judge; they are taken as the target's kernel has them
    :param keep: For which reasons refused folios are wanted themselves, not just their number
    :param progress: Called with the number of page frames done
    :param locate: Of which blocks it is wanted where each folio lies that the path contig refuses
    """

    def __init__(
        self,
        context: Context,
        paths: Sequence[Path],
        keep: Callable[[Reason], bool] = lambda reason: True,
        progress: Callable[[int], None] = lambda pages: None,
        locate: Callable[[Block], bool] = lambda block: False,
    ) -> None:
        self.context = context
        self.paths = [path.of(context.kernel) for path in paths]
        self._keep = keep
        self._progress = progress
        self._locate = locate if any(path.name == "contig" for path in self.paths) else lambda block: False
        self._classes = Classes()
        self._tally = Tally(self.paths, keep)
        self._pending: list[_Pending] = []
        self._pending_rows = 0
        self._examples: list[Rows] = []
        self._held: list[_Held] = []
        self._kept_rows = 0
        self._after_free = False
        self._scanned = range(0)
        """From where on all blocks were scanned, one behind the other, and how far."""
        self._reaching = -1
        """The last folio that was found to reach into a block."""
        self._special = context.special_pfns()
        _keep_freed_memory()
        self._glance = Glance(context.layout)

    # -- one block after another ---------------------------------------------------------------------------------------

    def blocks(self, blocks: Iterable[Block]) -> Iterator[BlockCensus]:
        """
        Scan memory blocks and yield what each holds, in the order given.

        Struct pages that cannot be read are counted, not raised.
        """
        runs = self.context.sections.runs()
        waiting: list[_Open] = []
        for block in blocks:
            waiting.append(self._whole(block) if self.context.live else self._block(block, online_ranges(block, runs)))
            # Blocks are handed out when their last folios are judged, which is done for many blocks at a time.
            if not (self._pending or self._held) or self._kept_rows >= KEPT_ROWS or len(waiting) >= MAX_WAITING:
                yield from self._finish(waiting)
                waiting = []
        yield from self._finish(waiting)

    def _open(self, block: Block) -> _Open:
        census = BlockCensus(block, {path.name: PathCensus() for path in self.paths}, holes=block.pages)
        return _Open(census, numpy.zeros(0, numpy.int64), obstacles=[] if self._locate(block) else None)

    def _block(self, block: Block, ranges: list[tuple[int, int]]) -> _Open:
        """Read the ranges of a block that are online."""
        open_ = self._open(block)
        open_.census.holes -= sum(end - start for start, end in ranges)
        if self._scanned.stop not in (block.start_pfn, block.end_pfn):  # the latter if it is read once more
            self._scanned = range(block.start_pfn, block.start_pfn)
        if ranges and ranges[0][0] == block.start_pfn:
            self._reaching_into(open_)
        for start, end in ranges:
            self._range(open_, start, end)
            self._pageblocks(open_.census, start, end)
        self._scanned = range(self._scanned.start, block.end_pfn)
        return open_

    def _pageblocks(self, census: BlockCensus, start: int, end: int) -> None:
        """Note what the pageblocks of a range are that no folio need be in."""
        size = self.context.sections.pages_per_section
        for number in range(start // size, (end - 1) // size + 1):
            odd = self.context.odd_pageblocks(number)
            if odd is not None:
                census.cma |= bool(odd.cma.any())
                census.isolated |= bool(odd.isolated.any())

    def _reaching_into(self, open_: _Open) -> None:
        """Queue the folio that a block begins in the middle of: huge pages may be larger than memory blocks."""
        start = open_.census.block.start_pfn
        try:
            rows = self.context.memmap.read_folio(start)
        except FaultError:
            return  # counted as unreadable, if it is the block's own struct page
        first = int(rows.pfn[0])
        if first < start < first + (1 << int(rows.order[0])):
            open_.counted_before = first >= self._scanned.start or first == self._reaching
            self._reaching = first
            nothing = numpy.zeros(1, numpy.uint64)
            self._pending.append(_Pending(open_, rows, Looks(nothing, nothing, numpy.ones(1, dtype=bool))))
            self._pending_rows += 1

    def _whole(self, block: Block) -> _Open:
        """Read a block of a live target, again if it went on- or offline or away while it was read."""
        for _ in range(BLOCK_TRIES):
            before = self.context.sections.states(block.start_pfn, block.end_pfn)
            now = block_as_is(block, before)
            open_ = self._block(now, before.runs() if now.online else [])
            if self.context.sections.states(block.start_pfn, block.end_pfn) == before:
                return open_
            # What was read of it is nobody's; nor is what could not be read missing.
            self.context.forget_pageblocks(block.start_pfn, block.end_pfn)
        open_ = self._open(block)
        open_.census.changed = True
        return open_

    def _finish(self, waiting: list[_Open]) -> Iterator[BlockCensus]:
        while self._examples or self._pending:  # judging may find some that have to be judged once more, alone
            self._judge()
        for open_ in waiting:
            self._tally.credit(open_.census, open_.weights)
            if open_.kept:
                rows = concatenate(open_.kept)
                open_.census.refused = self.context.folios(rows.select(numpy.argsort(rows.pfn, kind="stable")))
            if open_.obstacles is not None:
                open_.census.obstacles = Obstacles.concatenate(open_.obstacles)
            yield open_.census
        self._kept_rows = 0
        if self._classes.length > MAX_CLASSES:
            self._classes = Classes()
            self._tally = Tally(self.paths, self._keep)

    # -- chunks --------------------------------------------------------------------------------------------------------

    def _range(self, open_: _Open, start: int, end: int) -> None:
        memmap = self.context.memmap
        size = memmap.pages_per_chunk
        pfn = start
        while pfn < end:
            if self._after_free:  # more of it may follow, which need not be read
                beginning, pfn = pfn, memmap.free_until(pfn, end)
                self._progress(pfn - beginning)
                self._after_free = pfn == end
                continue
            count = min(size - pfn % size, end - pfn)
            self._read(open_, pfn, count)
            self._progress(count)
            pfn += count

    def _read(self, open_: _Open, pfn: int, count: int, whole: bool = True) -> None:
        """Read a chunk; where that fails, its halves, down to a few struct pages that are counted as unreadable."""
        try:
            chunk = self.context.memmap.read(pfn, count)
        except FaultError:
            if count <= _SMALLEST_READ:
                open_.census.unreadable += count
                return
            half = max(count // 2 // _SMALLEST_READ * _SMALLEST_READ, _SMALLEST_READ)
            self._read(open_, pfn, half, whole=False)
            self._read(open_, pfn + half, count - half, whole=False)
            return
        live = self.context.memmap.live(chunk)
        if not whole:
            cut = self.context.memmap.is_cut_off(chunk, live)
            open_.census.unreadable += int((chunk.count - live.rows[cut]).sum())
            live = live.select(~cut)
        self._chunk(open_, chunk, live)

    def _chunk(self, open_: _Open, chunk: Chunk, live: Live) -> None:
        """Count the small folios of a chunk by class, and queue the others."""
        open_.census.poisoned += live.poisoned
        self._after_free = not len(live.rows)
        if self._after_free:
            return
        # Neighbours are often alike: look at one of each run.
        starts, lengths = _runs(live)
        state, counts = live.state[starts], live.counts[starts]
        kinds = self._kinds(live.mapping[starts], state, counts)
        kinds <<= self.context.memmap.finder.kind_shift
        state |= kinds
        # A large folio's state is more than its first struct page.
        single = state & self.context.memmap.finder.head
        odd = self._odd_rows(chunk, live)
        if odd is not None:
            single |= numpy.logical_or.reduceat(odd, starts)
        if single.any():
            expanded = numpy.repeat(single != 0, lengths)
            queued = expanded.nonzero()[0]
            apart = numpy.zeros(len(queued), dtype=bool) if odd is None else odd[queued]
            looks = Looks(numpy.repeat(state, lengths)[queued], live.counts[queued], apart)
            self._queue(open_, chunk, live.rows[queued], looks)
            small = (single == 0).nonzero()[0]
            state, counts, lengths = state[small], counts[small], lengths[small]
            rows = live.rows[~expanded]
        else:
            rows = live.rows
        if len(rows):
            self._count(_Held(open_, chunk, rows, self._classes.lookup(state, counts), lengths), state, counts)

    def _kinds(self, mapping: Column, state: Column, counts: Column) -> Column:
        """Return the kind of each mapping, as far as the struct page has a mapping at all."""
        kinds = low_kinds(mapping)
        rows = (kinds == 0).nonzero()[0]
        if len(rows):
            pointers = self.context.memmap.finder.has_mapping_word(state[rows], counts[rows])
            pointers &= mapping[rows] != 0
            kinds[rows] = self.context.mappings.kinds_of(mapping[rows], pointers)
        return kinds

    def _odd_rows(self, chunk: Chunk, live: Live) -> Column | None:
        """Return a mask of the rows whose verdict does not follow from struct pages alone; None for none."""
        mask: Column | None = None
        first = bisect_left(self._special, chunk.pfn)
        last = bisect_left(self._special, chunk.pfn + chunk.count)
        if first != last:
            mask = numpy.isin(live.rows, numpy.array(self._special[first:last]) - chunk.pfn)
        size = self.context.sections.pages_per_section
        for number in range(chunk.pfn // size, (chunk.pfn + chunk.count - 1) // size + 1):
            odd = self.context.odd_pageblocks(number)
            if odd is not None:
                pfn = live.rows + chunk.pfn
                inside = pfn // size == number
                index = (pfn % size) >> self.context.pageblocks.pageblock_order
                these = inside & (odd.cma | odd.isolated)[index]
                mask = these if mask is None else mask | these
        return mask

    def _queue(self, open_: _Open, chunk: Chunk, rows: Column, looks: Looks) -> None:
        """Put rows aside that cannot be judged by their first struct page alone."""
        self._pending.append(_Pending(open_, self.context.memmap.rows(chunk, rows), looks))
        self._pending_rows += len(rows)
        if self._pending_rows >= PENDING_ROWS:
            self._judge()

    def _count(self, found: _Held, state: Column, counts: Column) -> None:
        """Count small folios by class; new classes are judged later."""
        open_, numbers = found.open, found.numbers
        unknown = (numbers == UNKNOWN).nonzero()[0]
        if len(unknown):
            numbers[unknown], examples = self._classes.add(state[unknown], counts[unknown])
            first = numpy.cumsum(found.lengths) - found.lengths
            rows = found.rows[first[unknown[examples]]]
            self._examples.append(self.context.memmap.rows(found.chunk, rows))
        weights = numpy.bincount(numbers, found.lengths, len(open_.weights)).astype(numpy.int64)
        present = weights > 0
        weights[: len(open_.weights)] += open_.weights
        open_.weights = weights
        judged = len(self._tally.kept)
        if present[judged:].any():
            self._held.append(found)
            if len(self._held) >= HELD_CHUNKS:
                self._judge()
        elif (present[:judged] & self._tally.individual[: len(present)]).any() or (
            open_.obstacles is not None and (self._tally.contig[: len(present)][present[:judged]] >= 0).any()
        ):
            self._keep_rows(found)

    def _keep_rows(self, held: _Held) -> None:
        """Copy the folios of a chunk that are wanted themselves; queue those that must be judged one by one."""
        alone = self._tally.alone[held.numbers]
        if held.open.obstacles is not None:
            gates = numpy.repeat(numpy.where(alone, -1, self._tally.contig[held.numbers]), held.lengths)
            found = numpy.flatnonzero(gates >= 0)
            pfns = held.rows[found].astype(numpy.int64) + held.chunk.pfn
            held.open.obstacles.append(Obstacles(pfns, numpy.ones_like(pfns), gates[found].astype(numpy.int64)))
        rows = held.rows[numpy.repeat(self._tally.kept[held.numbers], held.lengths)]
        if len(rows):
            held.open.kept.append(self.context.memmap.rows(held.chunk, rows))
            self._kept_rows += len(rows)
        rows = held.rows[numpy.repeat(alone, held.lengths)]
        if len(rows):
            nothing = numpy.zeros(len(rows), numpy.uint64)
            self._queue(held.open, held.chunk, rows, Looks(nothing, nothing, numpy.ones(len(rows), dtype=bool)))

    # -- judging -------------------------------------------------------------------------------------------------------

    def _judge(self) -> None:
        """Judge the new classes and everything that waits to be judged for itself, in one table."""
        pending, self._pending, self._pending_rows = self._pending, [], 0
        examples, self._examples = self._examples, []
        if not pending and not examples:
            return
        rows, looks = Rows.none(self.context.layout), Looks.none()
        if pending:
            for part in pending:
                part.rows = self.context.settled(part.rows)
            rows = concatenate([part.rows for part in pending])
            looks = Looks.concatenate([part.looks for part in pending])
        chosen, which = self._glance.distinct(rows, looks)
        new = sum(map(len, examples))
        tally = Tally(self.paths, self._keep)
        tally.judge(*self._table(concatenate([*examples, rows.select(chosen)])))
        self._tally.extend(tally, new)
        which = which + new
        if tally.alone[new:].any():  # their looks do not decide: once more, each for itself
            looks.apart[tally.alone[which]] = True
            chosen, which = self._glance.distinct(rows, looks)
            tally = Tally(self.paths, self._keep)
            tally.judge(self.context.folios(rows.select(chosen)), final=True)
        self._share_out(pending, tally, which)
        held, self._held = self._held, []
        for chunk in held:
            self._keep_rows(chunk)

    def _table(self, rows: Rows) -> tuple[Folios, bool, Column | None]:
        """Return what to judge, and of a live target which of it is to be read again first, each folio for itself."""
        f = self.context.folios(rows)
        again = contradicts(self.context.layout, rows, f) & ~rows.changing if self.context.live else None
        return f, False, again

    def _share_out(self, pending: list[_Pending], tally: Tally, which: Column) -> None:
        """Count judged folios in the blocks they are from, and keep those that are wanted themselves."""
        start = 0
        for part in pending:
            mine = which[start : start + len(part.rows)]
            tally.credit(part.open.census, numpy.bincount(mine))
            if part.open.obstacles is not None:
                found = numpy.flatnonzero((tally.contig[mine] >= 0) & ~tally.alone[mine])
                pages = numpy.int64(1) << part.rows.order[found]
                gates = tally.contig[mine][found].astype(numpy.int64)
                part.open.obstacles.append(Obstacles(part.rows.pfn[found], pages, gates))
            keep = tally.kept[mine]
            block = part.open.census.block
            ends = part.rows.pfn + (numpy.int64(1) << part.rows.order)
            for row in numpy.flatnonzero((part.rows.pfn < block.start_pfn) | (ends > block.end_pfn)).tolist():
                before, beyond = (
                    max(block.start_pfn - int(part.rows.pfn[row]), 0),
                    max(int(ends[row]) - block.end_pfn, 0),
                )
                again = part.open.counted_before and before > 0
                tally.trim(part.open.census, int(mine[row]), before + beyond, again)
                part.open.census.huge_beyond |= beyond > 0 and bool(tally.hugetlb[mine[row]])
                keep[row] &= not again
            kept = keep.nonzero()[0]
            if len(kept):
                part.open.kept.append(part.rows.select(kept))
                self._kept_rows += len(kept)
            start += len(part.rows)
