# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The census: every folio of every memory block, judged on the paths asked for.

Memory stays flat however large the host: of most folios only a count remains, and only those that are refused are kept,
until their block has been handed out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Callable, Optional

import numpy
from drgn import FaultError

from .blocks import Block, online_ranges
from .classes import MAX_CLASSES, UNKNOWN, Classes
from .context import Context, needs_buffers
from .folios import Column, Folios
from .formulas import PageHuge, is_free, nr_pages
from .gates import Path
from .mappings import KSM
from .memmap import Chunk, Live, Rows, concatenate

PENDING_ROWS = 4096
"""How many folios wait to be judged together: one call of numpy costs as much for one as for a few hundred."""
KEPT_ROWS = 32768
_SMALLEST_READ = 64  # struct pages: where a read fails, this much is given up at least


@dataclass
class PathCensus:
    """How many folios one path refuses in a block, by reason."""

    refused: int = 0
    refused_pages: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    """Folios by primary reason."""
    durations: dict[str, int] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)
    """Folios by the gate's own words (function and error)."""
    wrongly: int = 0


@dataclass
class BlockCensus:
    """What was found in a memory block."""

    block: Block
    paths: dict[str, PathCensus]
    folios: int = 0
    """Folios in use: of processes, files or the kernel."""
    pages: int = 0
    """Their pages."""
    holes: int = 0
    """Page frames without struct pages, or whose section is not online."""
    poisoned: int = 0
    unreadable: int = 0
    zones: dict[tuple[int, int], int] = field(default_factory=dict)
    """Pages in use by node and zone."""
    refused: Optional[Folios] = None
    """The folios refused on any path, in ascending order; None unless asked for."""

    @property
    def free(self) -> int:
        """Pages that are nobody's: free, on per-CPU lists, or tails of non-compound kernel allocations."""
        return self.block.pages - self.holes - self.poisoned - self.unreadable - self.pages


class _Tally:
    """What classes of folios mean for the counts of a block: one row per class."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths
        self.pages = numpy.zeros(0, numpy.int64)
        self.in_use = numpy.zeros(0, dtype=bool)
        self.zone = numpy.zeros(0, numpy.int64)
        self.node = numpy.zeros(0, numpy.int64)
        self.refused = numpy.zeros(0, dtype=bool)
        self.alone = numpy.zeros(0, dtype=bool)
        """Folios that must be judged one by one, whatever they look like."""
        self.primary = [numpy.zeros(0, numpy.int16) for _ in paths]

    @classmethod
    def of(cls, paths: Sequence[Path], f: Folios) -> _Tally:
        tally = cls(paths)
        tally.in_use = ~is_free(f)
        tally.pages = numpy.where(tally.in_use, nr_pages(f), 0)
        tally.zone, tally.node = f.zone, f.node
        tally.primary = [path.judge(f).primary for path in paths]
        tally.refused = numpy.zeros(len(f), dtype=bool)
        for primary in tally.primary:
            tally.refused |= primary >= 0
        tally.alone = PageHuge(f) | needs_buffers(f)
        return tally

    def extend(self, other: _Tally, rows: Column) -> None:
        for name in ("pages", "in_use", "zone", "node", "refused", "alone"):
            setattr(self, name, numpy.concatenate((getattr(self, name), getattr(other, name)[rows])))
        self.primary = [numpy.concatenate((a, b[rows])) for a, b in zip(self.primary, other.primary)]

    def credit(self, census: BlockCensus, weights: Column) -> None:
        """Add ``weights[i]`` folios of class i to a block."""
        rows = numpy.flatnonzero(weights)
        if not len(rows):
            return
        weights = weights[rows]
        pages = self.pages[rows] * weights
        census.folios += int(weights[self.in_use[rows]].sum())
        census.pages += int(pages.sum())
        places = self.node[rows] * 64 + self.zone[rows]
        for place in numpy.unique(places[self.in_use[rows]]):
            key = (int(place) // 64, int(place) % 64)
            census.zones[key] = census.zones.get(key, 0) + int(pages[places == place].sum())
        for path, primary in zip(self.paths, self.primary):
            gates = primary[rows]
            counts = census.paths[path.name]
            for index in numpy.unique(gates[gates >= 0]):
                gate = path.gates[index]
                folios = int(weights[gates == index].sum())
                counts.refused += folios
                counts.refused_pages += int(pages[gates == index].sum())
                for table, key_ in (
                    (counts.reasons, gate.reason.name),
                    (counts.durations, gate.duration.value),
                    (counts.errors, gate.kernel),
                ):
                    table[key_] = table.get(key_, 0) + folios
                if gate.wrongly:
                    counts.wrongly += folios


@dataclass
class _Open:
    """A block whose folios are not all judged yet."""

    census: BlockCensus
    weights: Column
    refused: list[Rows] = field(default_factory=list)


@dataclass
class _Pending:
    """Folios that wait to be judged."""

    open: _Open
    rows: Rows
    keys: Optional[tuple[Column, Column]]
    """What they look like, if others that look so may be judged by them."""


class Scan:
    """
    One pass over memory.

    :param paths: Paths to judge; they are taken as the target's kernel has them
    :param keep_refused: Hand out the refused folios themselves, not just their number
    :param progress: Called with the number of page frames done
    """

    def __init__(
        self,
        context: Context,
        paths: Sequence[Path],
        keep_refused: bool = True,
        progress: Optional[Callable[[int], None]] = None,
    ) -> None:
        self.context = context
        self.paths = [path.of(context.kernel) for path in paths]
        self.keep_refused = keep_refused
        self._progress = progress or (lambda pages: None)
        self._classes = Classes()
        self._tally = _Tally(self.paths)
        self._pending: list[_Pending] = []
        self._pending_rows = 0
        self._kept_rows = 0
        self._special = context.special_pfns()
        self._set_masks()

    def _set_masks(self) -> None:
        layout = self.context.layout
        mask = layout.zone.mask << layout.zone.shift | layout.node.mask << layout.node.shift
        for name, bit in layout.flag_masks.items():
            if not layout.flag_pages[name]:
                mask |= bit
        self._state_mask = numpy.uint64(mask)
        low = 1
        while mask & ((0xFFFF << low) | (1 << low - 1)):
            low += 1
            if low > 47:
                raise NotImplementedError("the flags word of struct page has no 16 spare bits")
        self._kind_shift = numpy.uint64(low)
        self._head = numpy.uint64(layout.flag("head"))
        self._slab = numpy.uint64(layout.flag("slab_flag"))

    # -- one block after another ---------------------------------------------------------------------------------------

    def blocks(self, blocks: Iterable[Block]) -> Iterator[BlockCensus]:
        """
        Scan memory blocks and yield what each holds, in the order given.

        Unreadable struct pages are counted, not raised. After a KeyboardInterrupt the blocks finished before are out.
        """
        runs = self.context.sections.runs()
        waiting: list[_Open] = []
        for block in blocks:
            census = BlockCensus(block, {path.name: PathCensus() for path in self.paths})
            open_ = _Open(census, numpy.zeros(0, numpy.int64))
            ranges = online_ranges(block, runs)
            census.holes = block.pages - sum(end - start for start, end in ranges)
            for start, end in ranges:
                self._range(open_, start, end)
            waiting.append(open_)
            if self._pending_rows >= PENDING_ROWS or self._kept_rows >= KEPT_ROWS:
                yield from self._finish(waiting)
                waiting = []
        yield from self._finish(waiting)

    def _finish(self, waiting: list[_Open]) -> Iterator[BlockCensus]:
        self._judge_pending()
        for open_ in waiting:
            self._tally.credit(open_.census, open_.weights)
            if self.keep_refused:
                open_.census.refused = self._refused(open_.refused)
            yield open_.census
        self._kept_rows = 0
        if self._classes.length > MAX_CLASSES:
            self._classes = Classes()
            self._tally = _Tally(self.paths)

    def _refused(self, parts: list[Rows]) -> Optional[Folios]:
        if not parts:
            return None
        rows = concatenate(parts)
        return self.context.folios(rows.select(numpy.argsort(rows.pfn, kind="stable")))

    # -- chunks --------------------------------------------------------------------------------------------------------

    def _range(self, open_: _Open, start: int, end: int) -> None:
        size = self.context.memmap.pages_per_chunk
        pfn = start
        while pfn < end:
            count = min(size - pfn % size, end - pfn)
            self._read(open_, pfn, count)
            self._progress(count)
            pfn += count

    def _read(self, open_: _Open, pfn: int, count: int) -> None:
        """Read a chunk; where that fails, its halves, down to a few struct pages that are then counted as unreadable."""
        try:
            chunk = self.context.memmap.read(pfn, count)
        except FaultError:
            if count <= _SMALLEST_READ:
                open_.census.unreadable += count
                return
            half = max(count // 2 // _SMALLEST_READ * _SMALLEST_READ, _SMALLEST_READ)
            self._read(open_, pfn, half)
            self._read(open_, pfn + half, count - half)
            return
        self._chunk(open_, chunk)

    def _chunk(self, open_: _Open, chunk: Chunk) -> None:
        live = self.context.memmap.live(chunk)
        open_.census.poisoned += live.poisoned
        if not len(live.rows):
            return
        state = live.flags & self._state_mask
        state |= self._kinds(live) << self._kind_shift
        numbers = self._classes.lookup(state, live.counts)
        single = numbers == UNKNOWN
        heads = (state & self._head) != 0
        if heads.any():
            single |= heads
        special = self._special_rows(chunk, live)
        if len(special):
            single[special] = True
        if single.any():
            self._set_aside(open_, chunk, live, state, single, heads, special)
            known = numbers[~single]
        else:
            known = numbers
        if len(known):
            self._count(open_, chunk, live, numbers, single, known)
        if self._pending_rows >= PENDING_ROWS:
            self._judge_pending()

    def _kinds(self, live: Live) -> Column:
        """Return the kind of mapping of each row, as far as its struct page has a mapping at all."""
        mapping = live.mapping
        low = mapping & numpy.uint64(KSM)
        if low.all():
            return low
        signed = live.counts.view(numpy.int64) if live.counts.flags.c_contiguous else live.counts.astype(numpy.int64)
        untyped = self.context.memmap.untyped(signed)
        if self._slab:
            untyped &= (live.flags & self._slab) == 0
        pointers = untyped & (low == 0) & (mapping != 0)
        kinds = self.context.mappings.kinds_of(mapping, pointers).astype(numpy.uint64)
        result: Column = numpy.where(untyped, kinds, low if self._slab else numpy.uint64(0))
        return result

    def _special_rows(self, chunk: Chunk, live: Live) -> Column:
        first, last = numpy.searchsorted(self._special, (chunk.pfn, chunk.pfn + chunk.count))
        if first == last:
            return numpy.zeros(0, numpy.intp)
        wanted = self._special[first:last] - chunk.pfn
        return numpy.flatnonzero(numpy.isin(live.rows, wanted))

    def _set_aside(
        self, open_: _Open, chunk: Chunk, live: Live, state: Column, single: Column, heads: Column, special: Column
    ) -> None:
        """Queue the rows that cannot be judged by what they look like."""
        typical = single & ~heads
        typical[special] = False
        for mask, keyed in ((typical, True), (single & ~typical, False)):
            rows = numpy.flatnonzero(mask)
            if len(rows):
                keys = (state[rows], live.counts[rows]) if keyed else None
                self._pending.append(_Pending(open_, self.context.memmap.rows(chunk, live.rows[rows]), keys))
                self._pending_rows += len(rows)

    def _count(
        self, open_: _Open, chunk: Chunk, live: Live, numbers: Column, single: Column, known: Column
    ) -> None:
        weights = numpy.bincount(known, minlength=len(open_.weights))
        alone = numpy.flatnonzero(weights[: self._classes.length] * self._tally.alone[: len(weights)])
        if len(alone):
            rows = numpy.flatnonzero(~single & numpy.isin(numbers, alone))
            self._pending.append(_Pending(open_, self.context.memmap.rows(chunk, live.rows[rows]), None))
            self._pending_rows += len(rows)
            weights[alone] = 0
        weights[: len(open_.weights)] += open_.weights
        open_.weights = weights
        if self.keep_refused:
            wanted = self._tally.refused & ~self._tally.alone
            rows = numpy.flatnonzero(~single)[wanted[known]] if wanted.any() else ()
            if len(rows):
                open_.refused.append(self.context.memmap.rows(chunk, live.rows[rows]))
                self._kept_rows += len(rows)

    # -- judging -------------------------------------------------------------------------------------------------------

    def _judge_pending(self) -> None:
        """Judge everything that waits: count it, and learn what its look-alikes are worth."""
        if not self._pending:
            return
        f = self.context.folios(concatenate([pending.rows for pending in self._pending]))
        tally = _Tally.of(self.paths, f)
        start = 0
        for pending in self._pending:
            length = len(pending.rows)
            weights = numpy.zeros(len(f), numpy.int64)
            weights[start : start + length] = 1
            tally.credit(pending.open.census, weights)
            if self.keep_refused:
                refused = numpy.flatnonzero(tally.refused[start : start + length])
                if len(refused):
                    pending.open.refused.append(pending.rows.select(refused))
                    self._kept_rows += len(refused)
            if pending.keys is not None:
                new = self._classes.add(*pending.keys)
                self._tally.extend(tally, start + new)
            start += length
        self._pending = []
        self._pending_rows = 0
