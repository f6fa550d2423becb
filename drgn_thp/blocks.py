# SPDX-License-Identifier: LGPL-2.1-or-later
"""Physical memory blocks: what the kernel on- and offlines at a time, with the state it has for each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import gcd
from typing import Callable, Literal

from drgn import FaultError, Program, sizeof
from drgn.helpers.linux.mm import for_each_memory_block

from .endless import ends
from .errors import BadArgument
from .layout import find_type, is_little_endian
from .sections import Sections, SectionStates

ONLINE, OFFLINE = "online", "offline"
MAX_BLOCKS = 1 << 20
_NUMBER = r"0x[0-9a-f]{1,16}|\d{1,20}"


@dataclass(frozen=True)
class Block:
    """A ``struct memory_block``, or memory that belongs to none."""

    id: int | None
    """As in /sys/devices/system/memory/memoryN; None for memory outside of all blocks."""
    start_pfn: int
    end_pfn: int
    state: str
    derived: bool = False
    """Made up from the sections, as the kernel's own list, or how large its blocks are, could not be read."""
    single_zone: bool | None = None
    """Whether the kernel has one zone down for all of it; None if it keeps none, and looks when asked."""

    @property
    def pages(self) -> int:
        return self.end_pfn - self.start_pfn

    @property
    def online(self) -> bool:
        """Whether its struct pages mean anything: a block that is going offline still has pages in use."""
        return self.state != OFFLINE


# include/linux/memory.h until 1a4f70f6851a ("mm: convert memory block states (MEM_*) macros to enum") (in v6.19).
_STATE_MACROS = {1 << 0: "MEM_ONLINE", 1 << 1: "MEM_GOING_OFFLINE", 1 << 2: "MEM_OFFLINE", 1 << 3: "MEM_GOING_ONLINE"}


def _states(prog: Program) -> dict[int, str]:
    """Return the names of memory block states: ours are the kernel's without MEM_."""
    enum = find_type(prog, "enum memory_block_state")
    names = _STATE_MACROS if enum is None else {int(e.value): e.name for e in enum.enumerators or ()}
    return {value: name.replace("MEM_", "").lower().replace("_", "-") for value, name in names.items()}


def sections_per_block(prog: Program) -> int | None:
    """Return how many sections the kernel on- and offlines at a time, or None if it does not say."""
    try:
        size = int(prog["sections_per_block"].value_())
    except (LookupError, FaultError):
        return None
    return size if 0 < size <= MAX_BLOCKS else None


class _Members:
    """Reads the members of ``struct memory_block`` that count, all at once: there may be a hundred thousand of them."""

    def __init__(self, prog: Program) -> None:
        self._prog = prog
        type_ = prog.type("struct memory_block")
        self._order: Literal["little", "big"] = "little" if is_little_endian(prog) else "big"
        self._places = []
        # Since 395f6081bad4 ("drivers/base/memory: determine and store zone for single-zone memory blocks") (in v5.18).
        self._has_zone = type_.has_member("zone")
        for name in ("start_section_nr", "state", *(("zone",) if self._has_zone else ())):
            member = type_.member(name)
            self._places.append((member.bit_offset // 8, sizeof(member.type)))
        self._size = max(offset + size for offset, size in self._places)

    def read(self, address: int) -> tuple[int, int, bool | None]:
        """Return the number of the first section, the state, and whether all of it is of one zone, if that is told."""
        data = self._prog.read(address, self._size)
        start, state, *zone = (int.from_bytes(data[at : at + size], self._order) for at, size in self._places)
        return start, state, bool(zone[0]) if zone else None


def read_blocks(prog: Program, sections: Sections) -> tuple[list[Block], list[str]]:
    """
    Return every memory block, and what lies outside of all blocks, in ascending order; and what went wrong.

    Where the kernel's list cannot be read (filtered dumps), blocks are derived from the sections and marked so.
    """
    notes: list[str] = []
    found: dict[int, str] = {}
    zones: dict[int, bool | None] = {}
    whole = True
    try:
        _read_list(prog, found, zones)
    except LookupError:
        notes.append("this kernel has no memory blocks (CONFIG_MEMORY_HOTPLUG)")
        return _outside([], sections), notes
    except FaultError as error:
        notes.append(f"the list of memory blocks cannot be read ({error}): blocks derived from the sections")
        whole = False
    except _Endless:
        notes.append(f"the list of memory blocks leads back into itself after {len(found)}: it is damaged")
        whole = False
    per_block = sections_per_block(prog)
    guessed = per_block is None
    if per_block is None:
        # Every block begins at a multiple of its size, and there is no larger number of which that is true.
        per_block = max(gcd(*found), 1) if len(found) > 1 and whole else 1
        notes.append(f"sections_per_block cannot be read: memory blocks are taken for {per_block} section(s) large")
    size = sections.pages_per_section
    blocks = {
        start // per_block: Block(
            *(start // per_block, start * size, (start + per_block) * size, state, guessed, zones[start])
        )
        for start, state in found.items()
    }
    if not whole:
        blocks = {block.id: block for block in _derived(sections, per_block) if block.id is not None} | blocks
    listed = sorted(blocks.values(), key=lambda block: block.start_pfn)
    return sorted(listed + _outside(listed, sections), key=lambda block: block.start_pfn), notes


class _Endless(Exception):
    """The list of memory blocks, or the one that it is found by, is damaged."""


def _read_list(prog: Program, found: dict[int, str], zones: dict[int, bool | None]) -> None:
    """
    Read the state of each block the kernel knows, by the number of its first section, and whether it has one zone.

    :raises LookupError: if this kernel has none
    :raises FaultError: if the list cannot be read; what has been found until then stays found
    """
    members, states = _Members(prog), _states(prog)
    seen: set[int] = set()
    if not ends(prog, "bus_kset"):
        raise _Endless
    for memory_block in for_each_memory_block(prog):
        address = int(memory_block.value_())
        if address in seen or len(seen) >= MAX_BLOCKS:
            raise _Endless
        seen.add(address)
        start, state, single_zone = members.read(address)
        found[start] = states.get(state, f"unknown-{state}")
        zones[start] = single_zone


def _derived(sections: Sections, per_block: int) -> list[Block]:
    size = sections.pages_per_section
    numbers = sorted({int(number) // per_block for number in sections.number})
    online = {int(number) // per_block for number in sections.number[sections.online]}
    return [
        Block(n, n * per_block * size, (n + 1) * per_block * size, ONLINE if n in online else OFFLINE, derived=True)
        for n in numbers
    ]


def _outside(blocks: list[Block], sections: Sections) -> list[Block]:
    """Return the online sections that no block covers."""
    result = []
    for start, end in sections.runs():
        position = start
        for block in blocks:
            if block.end_pfn <= position or block.start_pfn >= end:
                continue
            if block.start_pfn > position:
                result.append(Block(None, position, block.start_pfn, ONLINE))
            position = max(position, block.end_pfn)
        if position < end:
            result.append(Block(None, position, end, ONLINE))
    return result


def online_ranges(block: Block, runs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """
    Return the ranges of page frames of a block whose struct pages are in use; the rest are holes.

    :param runs: The ranges of online sections
    """
    if not block.online:
        return []
    result = []
    for start, end in runs:
        first, last = max(start, block.start_pfn), min(end, block.end_pfn)
        if first < last:
            result.append((first, last))
    return result


def block_as_is(block: Block, states: SectionStates) -> Block:
    """Return a block of a live target with its state now, as far as its sections tell: on- or offline."""
    online = bool(states.runs())
    if online == block.online:
        return block
    return replace(block, state=ONLINE if online else OFFLINE)


def named_blocks(texts: Sequence[str] | None, page_shift: int, option: str = "") -> Callable[[Block], bool] | None:
    """
    Return which memory blocks a user means, None for all: numbers (32, 32-35) or addresses (0x0-0x7ffffff).

    :param option: What to put before a text that is complained of
    :raises BadArgument: if one of the texts means nothing
    """
    if not texts:
        return None
    ids: list[tuple[int, int]] = []
    frames: list[tuple[int, int]] = []
    for text in texts:
        match = re.fullmatch(f"({_NUMBER})(?:-({_NUMBER}))?", text, re.IGNORECASE | re.ASCII)
        if match is None:
            raise BadArgument(f"{option}{text!r}: neither a block (32), blocks (32-35) nor addresses (0x0-0x7ffffff)")
        first, last = (int(number, 16 if "x" in number.lower() else 10) for number in (match[1], match[2] or match[1]))
        if last < first:
            raise BadArgument(f"{option}{text}: ends before it begins")
        if match[1].lower().startswith("0x"):
            frames.append((first >> page_shift, last >> page_shift))
        else:
            ids.append((first, last))

    def wanted(block: Block) -> bool:
        by_id = block.id is not None and any(first <= block.id <= last for first, last in ids)
        return by_id or any(block.start_pfn <= last and first < block.end_pfn for first, last in frames)

    return wanted
