# SPDX-License-Identifier: LGPL-2.1-or-later
"""What entries of page tables say. One class for each architecture; x86-64 is the only one so far."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

import numpy
from drgn import Architecture, FaultError, Program

from ..folios import Column


class State(IntEnum):
    """How an entry maps a page. Only the first two are counted by map counts."""

    MAPPED = 0
    PROT_NONE = 1
    """There, but not to be touched: mprotect(), or a hint of NUMA balancing."""
    SPECIAL = 2
    """Shown by a driver, or the zero page: the folio knows nothing of it."""
    MOVING = 3
    """A migration entry, or another that names a page but does not map it: the folio is about to be mapped again."""


@dataclass(frozen=True)
class Decoded:
    """
    What some entries of tables of one level say.

    :ivar is_table: Which lead to a table of the next level
    :ivar is_leaf: Which lead to pages
    :ivar pfn: Page frame of the table, or of the first page
    :ivar state: :class:`State` of leaves
    """

    is_table: Column
    is_leaf: Column
    pfn: Column
    state: Column


class Decoder(Protocol):
    """
    One architecture's page tables.

    :ivar shifts: For each level from the top, how many bits of an address an entry covers
    :ivar user_entries: How many entries of the top table are the process's own
    """

    page_size: int
    shifts: tuple[int, ...]
    user_entries: int

    def decode(self, entries: Column, shift: int) -> Decoded:
        """Return what entries that are not zero say."""


PRESENT, PSE, PROTNONE, SPECIAL = 1 << 0, 1 << 7, 1 << 8, 1 << 9
_PAGE, _PMD, _PUD = 12, 21, 30
# arch/x86/include/asm/pgtable_64.h: type in the upper 5 bits, below it the inverted offset, from bit 9 on.
_SWAP_TYPE_BITS, _SWAP_OFFSET_SHIFT = 5, 14
_PFN_BITS = 40
MAX_SWAPFILES_AT_LEAST = 23
"""2^5 less the types of device memory (4), migration (3), poisoned pages and markers (1 each), with all configured."""


class X86_64:
    """
    Page tables of x86-64.

    An entry that is not present, but not empty either, holds its page frame inverted: 6b28baca9b1f ("x86/speculation/
    l1tf: Protect PROT_NONE PTEs against speculation") (in v4.19).

    :param levels: 4, or 5 with LA57
    :param physical_mask: Bits of a physical address: without that which encrypts memory
    :param first_special: The first type of swap entries that are no swap entries: MAX_SWAPFILES
    """

    page_size = 4096
    user_entries = 256

    def __init__(self, levels: int, physical_mask: int, first_special: int) -> None:
        self.shifts = (48, 39, 30, 21, 12)[-levels:]
        self._mask = numpy.uint64(physical_mask & ~0xFFF & (1 << 52) - 1)
        self._first_special = numpy.uint64(first_special)

    def decode(self, entries: Column, shift: int) -> Decoded:
        present = (entries & numpy.uint64(PRESENT)) != 0
        if shift > _PUD:
            nothing = numpy.zeros(len(entries), dtype=bool)
            return Decoded(present, nothing, self._pfn(entries), nothing.view(numpy.uint8))
        if shift == _PAGE:
            is_table = numpy.zeros(len(entries), dtype=bool)
            mapped = (entries & numpy.uint64(PRESENT | PROTNONE)) != 0
        else:
            # pmd_present(): PSE alone is a huge page that is being split.
            mapped = (entries & numpy.uint64(PSE)) != 0
            is_table = present & ~mapped
        raw = numpy.where(present, entries, ~entries)
        pfn = self._pfn(raw) & ~((1 << (shift - _PAGE)) - 1)
        state = numpy.where(present, State.MAPPED, State.PROT_NONE).astype(numpy.uint8)
        # The bit is the software's, and means something else on tables and on entries that are not present.
        state[present & ((entries & numpy.uint64(SPECIAL)) != 0)] = State.SPECIAL
        moving = ~(mapped | is_table)
        if moving.any():
            moving &= entries >> numpy.uint64(64 - _SWAP_TYPE_BITS) >= self._first_special
            offset = (~entries << numpy.uint64(_SWAP_TYPE_BITS)) >> numpy.uint64(_SWAP_OFFSET_SHIFT)
            # 0d206b5d2e0d ("mm/swap: add swp_offset_pfn() to fetch PFN from swap entry") (in v6.1) put bits above it.
            target = (offset & numpy.uint64((1 << _PFN_BITS) - 1)).astype(numpy.int64)
            pfn = numpy.where(moving, target, pfn)
            state[moving] = State.MOVING
        is_leaf = mapped | moving
        if is_table.any():
            pfn = numpy.where(is_table, self._pfn(entries), pfn)
        return Decoded(is_table, is_leaf, pfn, state)

    def _pfn(self, entries: Column) -> Column:
        return ((entries & self._mask) >> numpy.uint64(_PAGE)).astype(numpy.int64)


def decoder_of(prog: Program) -> Decoder | None:
    """Return the decoder of a target's page tables; None if there is none for its architecture."""
    if prog.platform is None or prog.platform.arch != Architecture.X86_64:
        return None
    return X86_64(5 if _five_levels(prog) else 4, _physical_mask(prog), _first_special(prog))


def _five_levels(prog: Program) -> bool:
    try:
        return b"NUMBER(pgtable_l5_enabled)=1\n" in prog["VMCOREINFO"].string_()
    except (LookupError, FaultError):
        pass
    try:
        return bool(prog.read_u32(prog.symbol("__pgtable_l5_enabled").address))
    except (LookupError, FaultError):
        return False


def _physical_mask(prog: Program) -> int:
    try:
        mask = int(prog.read_u64(prog.symbol("physical_mask").address))
    except (LookupError, FaultError):
        mask = 0
    # Damaged, it would make of every page another.
    return mask if mask & 0xFFFFFFFF == 0xFFFFFFFF else (1 << 52) - 1


def _first_special(prog: Program) -> int:
    try:
        length = prog["swap_info"].type_.length
    except (LookupError, AttributeError):
        length = None
    return length or MAX_SWAPFILES_AT_LEAST
