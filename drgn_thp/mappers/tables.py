# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A walk over the page tables of many address spaces at once, that keeps only the entries for suspects.

Tables are decoded by the hundred, and each is visited once, however often tables of a damaged dump lead to it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy
from drgn import FaultError, Program

from ..folios import Column
from ..suspects import Suspects
from .decoder import Decoder

BATCH = 256
"""Tables at a time: each may lead to 512 of the next level, so that a queue stays short."""
MAX_TABLES = 1 << 23
MAX_HITS = 1 << 23
MAX_SHARED = 1 << 16
_BLOCK_SHIFT = 15


@dataclass
class Hits:
    """
    Entries for suspects, as columns.

    :ivar folio: Which of the suspects
    :ivar pfn: The first page
    :ivar shift: Bits of an address that the entry covers: 12 for a page
    :ivar state: See :class:`.decoder.State`
    :ivar address: Of the process
    :ivar owner: Which of the address spaces
    :ivar table: Page frame of the table that the entry is in
    :ivar again: Whether the table is another address space's, which shares it: map counts count it once
    """

    folio: Column
    pfn: Column
    shift: Column
    state: Column
    address: Column
    owner: Column
    table: Column
    again: Column

    def __len__(self) -> int:
        return len(self.folio)

    def select(self, rows: Column) -> Hits:
        return Hits(*(getattr(self, name)[rows] for name in _NAMES))

    @staticmethod
    def join(parts: list[Hits]) -> Hits:
        if not parts:
            return Hits(*(numpy.zeros(0, dtype) for dtype in _DTYPES))
        return Hits(*(numpy.concatenate([getattr(part, name) for part in parts]) for name in _NAMES))


_NAMES = tuple(Hits.__dataclass_fields__)
_DTYPES = ("i8", "i8", "u1", "u1", "u8", "i4", "i8", "?")


@dataclass
class Walk:
    """
    One walk.

    :ivar is_memory: Which page frames the target has: a table lies nowhere else
    :ivar low, high: The addresses to look at
    :ivar tables: How many were read
    :ivar unreadable: How many could not be
    :ivar wild: Entries that lead to a table where no memory is
    :ivar left: Tables that were not read, because there were too many
    :ivar dropped: Entries for suspects that were not kept, for the same reason
    :ivar repeated: How often a table was met again; hugetlb shares them
    """

    prog: Program
    decoder: Decoder
    suspects: Suspects
    is_memory: Callable[[Column], Column]
    low: int = 0
    high: int = 1 << 63
    max_tables: int = MAX_TABLES
    max_hits: int = MAX_HITS
    tables: int = 0
    unreadable: int = 0
    wild: int = 0
    left: int = 0
    dropped: int = 0
    repeated: int = 0
    _parts: list[Hits] = field(default_factory=list)
    _kept: int = 0
    _seen: dict[int, Column] = field(default_factory=dict)
    _first: dict[int, tuple[int, int]] = field(default_factory=dict)
    _again: list[tuple[int, int, int, int]] = field(default_factory=list)

    def walk(self, tops: Column) -> Hits:
        """Walk from the top tables of some address spaces, and return the entries for suspects."""
        owners = numpy.arange(len(tops), dtype=numpy.int32)
        fresh = self._fresh(tops, numpy.zeros(len(tops), numpy.uint64), owners, 0)
        self._level(0, tops[fresh], numpy.zeros(len(fresh), numpy.uint64), owners[fresh])
        self._share()
        return Hits.join(self._parts)

    def _level(self, level: int, tables: Column, bases: Column, owners: Column) -> None:
        for start in range(0, len(tables), BATCH):
            part = slice(start, start + BATCH)
            children = self._batch(level, tables[part], bases[part], owners[part])
            if children is not None:
                self._level(level + 1, *children)

    def _batch(self, level: int, tables: Column, bases: Column, owners: Column) -> tuple[Column, Column, Column] | None:
        shift = self.decoder.shifts[level]
        entries, read = self._read(tables)
        per_table = self.decoder.page_size // 8
        if level == 0:
            entries[:, self.decoder.user_entries :] = 0
        entries = entries.ravel()
        found = numpy.flatnonzero(entries)
        table = read[found // per_table]
        address = bases[table] + ((found % per_table).astype(numpy.uint64) << numpy.uint64(shift))
        if self.low or self.high < 1 << 63:
            inside = (address < self.high) & (address + numpy.uint64(1 << shift) > self.low)
            found, table, address = found[inside], table[inside], address[inside]
        if not len(found):
            return None
        decoded = self.decoder.decode(entries[found], shift)
        leaf = numpy.flatnonzero(decoded.is_leaf)
        if len(leaf):
            folio = self.suspects.find(decoded.pfn[leaf], 1 << (shift - self.decoder.shifts[-1]))
            hit = leaf[folio >= 0]
            if len(hit):
                size = numpy.full(len(hit), shift, numpy.uint8)
                again = numpy.zeros(len(hit), dtype=bool)
                state, owner = decoded.state[hit], owners[table[hit]]
                columns = (decoded.pfn[hit], size, state, address[hit], owner, tables[table[hit]], again)
                self._keep(Hits(folio[folio >= 0], *columns))
        if level + 1 == len(self.decoder.shifts):
            return None
        child = numpy.flatnonzero(decoded.is_table)
        child = child[self._fresh(decoded.pfn[child], address[child], owners[table[child]], level + 1)]
        return decoded.pfn[child], address[child], owners[table[child]]

    def _read(self, tables: Column) -> tuple[Column, Column]:
        """Return the contents of those tables that can be read, and which they are."""
        size, pieces, read = self.decoder.page_size, [], []
        for i, pfn in enumerate(tables.tolist()):
            if self.tables >= self.max_tables:
                self.left += len(tables) - i
                break
            try:
                pieces.append(self.prog.read(pfn * size, size, True))
            except FaultError:
                self.unreadable += 1
                continue
            self.tables += 1
            read.append(i)
        entries = numpy.frombuffer(bytearray(b"".join(pieces)), "<u8").reshape(len(read), size // 8)
        return entries, numpy.array(read, numpy.int64)

    def _fresh(self, tables: Column, bases: Column, owners: Column, level: int) -> Column:
        """Return which tables were not met before."""
        inside = numpy.flatnonzero(self.is_memory(tables))
        self.wild += len(tables) - len(inside)
        _, first = numpy.unique(tables[inside], return_index=True)
        first.sort()
        fresh = numpy.zeros(len(tables), dtype=bool)
        fresh[inside[first]] = True
        block = tables >> _BLOCK_SHIFT
        for number in numpy.unique(block[fresh]).tolist():
            seen = self._seen.setdefault(number, numpy.zeros(1 << _BLOCK_SHIFT, dtype=bool))
            rows = numpy.flatnonzero(fresh & (block == number))
            cells = tables[rows] & ((1 << _BLOCK_SHIFT) - 1)
            fresh[rows[seen[cells]]] = False
            seen[cells] = True
        repeated = inside[~fresh[inside]]
        self.repeated += len(repeated)
        room = MAX_SHARED - len(self._again)
        for i in repeated[:room].tolist():
            self._again.append((int(tables[i]), self.decoder.shifts[level], int(bases[i]), int(owners[i])))
        return numpy.flatnonzero(fresh)

    def _keep(self, hits: Hits) -> None:
        room = self.max_hits - self._kept
        if len(hits) > room:
            self.dropped += len(hits) - room
            hits = hits.select(slice(0, room))
        if len(hits):
            self._kept += len(hits)
            self._parts.append(hits)

    def _share(self) -> None:
        """Add the entries of shared tables once more, for each other address space that has them."""
        if not self._again or not self._parts:
            return
        hits = Hits.join(self._parts)
        wanted = {table for table, _, _, _ in self._again}
        rows = numpy.flatnonzero(numpy.isin(hits.table, numpy.fromiter(wanted, numpy.int64)))
        by_table: dict[tuple[int, int], list[int]] = {}
        for row in rows.tolist():
            by_table.setdefault((int(hits.table[row]), int(hits.shift[row])), []).append(row)
        for table, shift, base, owner in self._again:
            mine = by_table.get((table, shift))
            if mine is None:
                continue
            part = hits.select(numpy.array(mine))
            part.address = numpy.uint64(base) + (
                part.address & numpy.uint64((self.decoder.page_size // 8 << shift) - 1)
            )
            part.owner = numpy.full(len(mine), owner, numpy.int32)
            part.again = numpy.ones(len(mine), dtype=bool)
            self._keep(part)
