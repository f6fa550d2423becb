# SPDX-License-Identifier: LGPL-2.1-or-later
"""Entries of page tables of x86-64, as the kernel's macros make them, in a memory of our own."""

from __future__ import annotations

from typing import Any

import numpy
from drgn import Architecture, FaultError, Platform, PlatformFlags, Program

from drgn_thp.mappers.decoder import X86_64, State
from drgn_thp.mappers.tables import Hits, Walk
from drgn_thp.suspects import Suspects

ALL = (1 << 64) - 1
PFN_MASK = (1 << 52) - 4096
MIGRATION, SWAPFILE = 28, 3
PFN = 0x12345


def inverted(pfn: int, flags: int) -> int:
    """Return pfn_pte() of an entry that is not present."""
    return ~(pfn << 12) & PFN_MASK | flags


def swap(type_: int, offset: int) -> int:
    """Return __swp_entry()."""
    return type_ << 59 | (~offset & ALL) << 14 >> 5 & ((1 << 59) - 1) & ~0x1FF


def decode(entry: int, shift: int = 12) -> tuple[bool, bool, int, int]:
    decoded = X86_64(5, (1 << 52) - 1, 27).decode(numpy.array([entry], numpy.uint64), shift)
    columns = (decoded.is_table, decoded.is_leaf, decoded.pfn, decoded.state)
    table, leaf, pfn, state = (column[0] for column in columns)
    return bool(table), bool(leaf), int(pfn), int(state)


def test_entries() -> None:
    """Present, PROT_NONE, special, migration and swap entries of one page; a huge page; a table."""
    nx = 1 << 63
    assert decode(PFN << 12 | 0x67 | nx) == (False, True, PFN, State.MAPPED)
    assert decode(PFN << 12 | 0x67 | 0x7 << 59) == (False, True, PFN, State.MAPPED)  # a protection key
    assert decode(inverted(PFN, 0x100 | nx)) == (False, True, PFN, State.PROT_NONE)
    assert decode(PFN << 12 | 0x267) == (False, True, PFN, State.SPECIAL)
    assert decode(swap(MIGRATION, PFN)) == (False, True, PFN, State.MOVING)
    assert decode(swap(MIGRATION, 1 << 41 | PFN)) == (False, True, PFN, State.MOVING)  # accessed or dirty
    assert decode(swap(SWAPFILE, PFN))[:2] == (False, False)
    huge = PFN >> 9 << 9
    assert decode(huge << 12 | 0xE7, 21) == (False, True, huge, State.MAPPED)
    assert decode(huge << 12 | 0x10E7 | 1 << 12, 21) == (False, True, huge, State.MAPPED)  # PAT
    assert decode(inverted(huge, 0x180), 21) == (False, True, huge, State.PROT_NONE)
    assert decode(inverted(huge, 0x80), 21) == (False, True, huge, State.PROT_NONE)  # being split
    assert decode(swap(MIGRATION, huge), 21) == (False, True, huge, State.MOVING)
    assert decode(PFN << 12 | 0x67, 21) == (True, False, PFN, State.MAPPED)
    assert decode(PFN << 12 | 0x67, 39)[:3] == (True, False, PFN)
    encrypting = X86_64(4, ((1 << 52) - 1) & ~(1 << 47), 27)
    assert encrypting.decode(numpy.array([1 << 47 | PFN << 12 | 0x67], numpy.uint64), 12).pfn.tolist() == [PFN]


def walk(tables: dict[int, dict[int, int]], tops: list[int], **options: Any) -> tuple[Walk, Hits]:
    """Walk four levels of tables, given by page frame and slot."""
    pages = {pfn: numpy.zeros(512, "<u8") for pfn in tables}
    for pfn, entries in tables.items():
        for slot, entry in entries.items():
            pages[pfn][slot] = entry
    prog = Program(Platform(Architecture.X86_64, PlatformFlags.IS_64_BIT | PlatformFlags.IS_LITTLE_ENDIAN))

    def read(address: int, count: int, offset: int, physical: bool) -> bytes:
        if address >> 12 not in pages:
            raise FaultError("not there", address)
        return pages[address >> 12].tobytes()[address & 4095 :][:count]

    prog.add_memory_segment(0, 1 << 20, read, True)
    suspects = Suspects(numpy.array([PFN]), numpy.array([1]))
    w = Walk(prog, X86_64(4, (1 << 52) - 1, 27), suspects, lambda pfn: pfn < 256, **options)
    return w, w.walk(numpy.array(tops))


def table(pfn: int) -> int:
    return pfn << 12 | 0x67


def test_walk() -> None:
    """Two address spaces map a page; they share a table; one table cannot be read, and one is nowhere."""
    page = PFN << 12 | 0x67
    tables = {
        1: {0: table(2), 300: table(2)},
        2: {1: table(3)},
        3: {2: table(4), 5: table(99), 6: 1 << 40 | 0x67},
        4: {3: page, 4: page + 4096},
        11: {1: table(12)},
        12: {0: table(13)},
        13: {0: table(4), 1: table(14)},
        14: {511: page},
    }
    w, hits = walk(tables, [1, 11])
    assert (w.unreadable, w.wild, w.repeated, w.tables) == (1, 1, 1, 8)
    found = sorted(zip(hits.owner.tolist(), hits.address.tolist(), hits.again.tolist()))
    assert found == [
        (0, 1 << 30 | 2 << 21 | 3 << 12, False),
        (1, 1 << 39 | 3 << 12, True),
        (1, 1 << 39 | 1 << 21 | 511 << 12, False),
    ]
    assert len(walk(tables, [1, 11], high=1 << 39)[1]) == 1


def test_tables_that_lead_to_each_other() -> None:
    """Every table is visited once, though there are 512^3 ways to the last."""
    tables = {pfn: {slot: table(2 + slot % 100) for slot in range(512)} for pfn in range(1, 102)}
    w, hits = walk(tables, [1])
    assert w.tables <= 101
    assert len(hits) == 0
