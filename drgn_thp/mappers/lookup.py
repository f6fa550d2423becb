# SPDX-License-Identifier: LGPL-2.1-or-later
"""What single address spaces have at some addresses, by their page tables: for a few folios, not for all processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy
from drgn import FaultError, Object, Program
from drgn.helpers.linux.mm import follow_phys

from ..folios import Column
from .decoder import Decoded, Decoder, State

MAX_KEPT = 2048
"""Decoded tables that are kept: 12 MiB."""


@dataclass(frozen=True)
class Entry:
    """
    An entry of a page table.

    :ivar shift: Bits of an address that it covers
    :ivar table: Page frame of the table, -1 if that is not known
    """

    address: int
    pfn: int
    shift: int
    state: int
    table: int


class Lookup(Protocol):
    """Finds entries of page tables."""

    def entries(self, mm: int, start: int, end: int) -> Iterator[Entry]:
        """
        Yield what an address space (``struct mm_struct *``) has from one address to another.

        :raises FaultError: if that cannot be read
        """


@dataclass
class Decoding:
    """
    Finds them by their decoder.

    :ivar top: Returns the page frame of the top table of an address space
    :ivar is_memory: Which page frames the target has: a table lies nowhere else
    """

    prog: Program
    decoder: Decoder
    top: Callable[[int], int]
    is_memory: Callable[[Column], Column]
    _kept: dict[tuple[int, int], Decoded] = field(default_factory=dict)

    def entries(self, mm: int, start: int, end: int) -> Iterator[Entry]:
        """See :class:`Lookup`."""
        yield from self._entries(0, self.top(mm), 0, start, end)

    def _entries(self, level: int, table: int, base: int, start: int, end: int) -> Iterator[Entry]:
        shift, shifts = self.decoder.shifts[level], self.decoder.shifts
        found = self._table(shift, table)
        first = max(start - base, 0) >> shift
        last = min((end - 1 - base) >> shift, len(found.pfn) - 1)
        if not level:
            last = min(last, self.decoder.user_entries - 1)
        part = slice(first, last + 1)
        for i in (first + numpy.flatnonzero(found.is_leaf[part] | found.is_table[part])).tolist():
            address, pfn = base + (i << shift), int(found.pfn[i])
            if found.is_leaf[i]:
                yield Entry(address, pfn, shift, int(found.state[i]), table)
            elif level + 1 < len(shifts):
                yield from self._entries(level + 1, pfn, address, start, end)

    def _table(self, shift: int, table: int) -> Decoded:
        found = self._kept.get((table, shift))
        if found is None:
            if not self.is_memory(numpy.array([table]))[0]:
                raise FaultError("a page table where no memory is", table * self.decoder.page_size)
            data = self.prog.read(table * self.decoder.page_size, self.decoder.page_size, True)
            found = self.decoder.decode(numpy.frombuffer(data, "<u8").astype(numpy.uint64), shift)
            if len(self._kept) >= MAX_KEPT:
                self._kept.clear()
            self._kept[table, shift] = found
        return found


@dataclass
class Translating:
    """
    Finds them by drgn, page by page, where no decoder is: only pages that are present.

    How large an entry is is not known: each page is one.
    """

    prog: Program
    page_shift: int

    def entries(self, mm: int, start: int, end: int) -> Iterator[Entry]:
        """See :class:`Lookup`."""
        object_ = Object(self.prog, "struct mm_struct *", mm)
        for address in range(start, end, 1 << self.page_shift):
            try:
                there = int(follow_phys(object_, address))
            except FaultError as error:
                if "address is not mapped" in str(error):
                    continue
                raise
            yield Entry(address, there >> self.page_shift, self.page_shift, State.MAPPED, -1)
