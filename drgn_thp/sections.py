# SPDX-License-Identifier: LGPL-2.1-or-later
"""Memory sections: which physical memory has struct pages and is online; and its pageblocks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy
from drgn import FaultError, Program, TypeKind

from .errors import UnknownLayout
from .folios import Column
from .kernel import Kernel
from .layout import Layout, find_enumerator, find_type

# include/linux/mmzone.h: low bits of mem_section::section_mem_map; enumerators since v5.19, the same values before.
SECTION_HAS_MEM_MAP = 1 << 1
SECTION_IS_ONLINE = 1 << 2
MAX_SECTIONS = 1 << 25
MAX_PATTERNS = 4096


@dataclass(frozen=True)
class SectionTable:
    """Where the table of sections lies: what it takes to look at one again, on a target that goes on meanwhile."""

    roots: tuple[int, ...]
    per_root: int
    size: int
    """Bytes of a ``struct mem_section``."""
    offset: int
    """Of its word with the flags."""
    online: int
    """Bits of that word that say that a section has a memmap and is online."""

    def words(self, prog: Program, first: int, last: int) -> tuple[int, ...]:
        """Return the words of some sections; 0 for those of which there is none, or none can be read."""
        result = []
        for number in range(first, last + 1):
            root = number // self.per_root
            base = self.roots[root] if root < len(self.roots) else 0
            try:
                at = base + number % self.per_root * self.size + self.offset
                result.append(prog.read_u64(at) if base else 0)
            except FaultError:
                result.append(0)
        return tuple(result)


@dataclass(frozen=True)
class SectionStates:
    """What a range of page frames is made of, at one moment: compare it with that of another."""

    start_pfn: int
    end_pfn: int
    pages_per_section: int
    words: tuple[int, ...]
    online: int

    def runs(self) -> list[tuple[int, int]]:
        """Return the longest ranges of page frames that are online."""
        result: list[tuple[int, int]] = []
        first = self.start_pfn // self.pages_per_section
        for number, word in enumerate(self.words, first):
            if word & self.online != self.online:
                continue
            start = max(number * self.pages_per_section, self.start_pfn)
            end = min((number + 1) * self.pages_per_section, self.end_pfn)
            if result and result[-1][1] == start:
                start = result.pop()[0]
            result.append((start, end))
        return result


@dataclass(frozen=True)
class Sections:
    """The sections that have a memmap, in ascending order."""

    prog: Program
    pages_per_section: int
    number: Column
    online: Column
    usage: Column
    """Address of each ``struct mem_section_usage``."""
    unreadable: int
    """Roots of the section table that could not be read: sections missing from here."""
    table: SectionTable

    def runs(self, online: bool = True) -> list[tuple[int, int]]:
        """Return the longest ranges of page frames whose sections all are online (or all offline)."""
        numbers = self.number[self.online == online]
        if not len(numbers):
            return []
        breaks = numpy.flatnonzero(numpy.diff(numbers) != 1) + 1
        size = self.pages_per_section
        return [(int(run[0]) * size, (int(run[-1]) + 1) * size) for run in numpy.split(numbers, breaks)]

    def states(self, start_pfn: int, end_pfn: int) -> SectionStates:
        """Look again at the sections of a range of page frames."""
        size = self.pages_per_section
        words = self.table.words(self.prog, start_pfn // size, (end_pfn - 1) // size)
        return SectionStates(start_pfn, end_pfn, size, words, self.table.online)

    def index(self, pfn: int) -> int | None:
        """Return the position of a page frame's section, or None where there is no memmap."""
        return self._positions.get(pfn // self.pages_per_section)

    def are_memory(self, pfns: Column) -> Column:
        """Return which page frames have a memmap."""
        return numpy.isin(pfns // self.pages_per_section, self.number)

    @cached_property
    def _positions(self) -> dict[int, int]:
        return {int(number): position for position, number in enumerate(self.number)}


def read_sections(prog: Program) -> Sections:
    """
    Read the table of memory sections.

    :raises UnknownLayout: if the kernel has none (FLATMEM)
    """
    section_type = find_type(prog, "struct mem_section")
    try:
        table = prog["mem_section"]
    except LookupError:
        raise UnknownLayout("this kernel has no memory sections (CONFIG_SPARSEMEM)") from None
    if section_type is None or section_type.size is None:
        raise UnknownLayout("struct mem_section not found")
    per_root = int(prog["SECTIONS_PER_ROOT"].value_())
    pages = 1 << (int(prog["SECTION_SIZE_BITS"].value_()) - int(prog["PAGE_SHIFT"].value_()))
    highest = _highest_section(prog, per_root)
    size = section_type.size
    unreadable = 0
    numbers, words, usages = [], [], []
    try:
        roots = _roots(prog, table, highest // per_root + 1, per_root * size)
    except FaultError as error:
        raise UnknownLayout(f"the table of memory sections cannot be read: {error}") from None
    for root_nr, address in enumerate(roots):
        if not address:
            continue
        try:
            data = prog.read(address, per_root * size)
        except FaultError:
            unreadable += 1
            continue
        words.append(numpy.ndarray((per_root,), "u8", data, _offset(section_type, "section_mem_map"), (size,)))
        usages.append(numpy.ndarray((per_root,), "u8", data, _offset(section_type, "usage"), (size,)))
        numbers.append(numpy.arange(root_nr * per_root, (root_nr + 1) * per_root))
    if not numbers:
        raise UnknownLayout("no memory section can be read")
    number, word, usage = (numpy.concatenate(part) for part in (numbers, words, usages))
    present = (word & numpy.uint64(SECTION_HAS_MEM_MAP)) != 0
    if not present.any():
        raise UnknownLayout("no memory section has struct pages: the table of sections is damaged")
    online_bit = find_enumerator(prog, "SECTION_IS_ONLINE_BIT")
    online = SECTION_IS_ONLINE if online_bit is None else 1 << online_bit
    offset = _offset(section_type, "section_mem_map")
    return Sections(
        prog,
        pages,
        number[present],
        (word[present] & numpy.uint64(online)) != 0,
        usage[present],
        unreadable,
        SectionTable(tuple(roots), per_root, size, offset, online | SECTION_HAS_MEM_MAP),
    )


def _highest_section(prog: Program, per_root: int) -> int:
    """Return the number of the last section that there is, or where that cannot be known, that there can be."""
    try:
        highest = int(prog["__highest_present_section_nr"].value_())
        if 0 <= highest < MAX_SECTIONS:
            return highest
    except (LookupError, FaultError):
        pass
    return min(int(prog["NR_SECTION_ROOTS"].value_()) * per_root, MAX_SECTIONS) - 1


def _offset(type_, name: str) -> int:  # type: ignore[no-untyped-def]
    return int(type_.member(name).bit_offset // 8)


def _roots(prog: Program, table, count: int, root_bytes: int) -> list[int]:  # type: ignore[no-untyped-def]
    """Return the address of each root: an array of arrays, or with SPARSEMEM_EXTREME pointers to arrays."""
    kind = table.type_.unaliased_kind()
    if kind == TypeKind.POINTER:
        base = int(table.value_())
        data = prog.read(base, 8 * count) if base else b""
        return [int(address) for address in numpy.frombuffer(data, "u8")]
    if table.type_.unaliased().type.unaliased_kind() == TypeKind.POINTER:
        return [int(address) for address in numpy.frombuffer(prog.read(int(table.address_), 8 * count), "u8")]
    return [int(table.address_) + i * root_bytes for i in range(count)]


@dataclass(frozen=True)
class OddPageblocks:
    """For each pageblock of a section: whether it is CMA's, and whether it is isolated right now."""

    cma: Column
    isolated: Column


class Pageblocks:
    """
    The migrate types of pageblocks, as far as they matter: CMA and isolated ones.

    The flags of most sections are the same few words (all movable, or all unmovable): each pattern is decoded once.
    """

    def __init__(self, sections: Sections, layout: Layout, kernel: Kernel, offset: int) -> None:
        self.sections = sections
        self.pageblock_order = kernel.pageblock_order
        self._offset = offset
        self._cma = layout.enumerators.get("MIGRATE_CMA")
        self._isolate = layout.enumerators.get("MIGRATE_ISOLATE")
        # A bit of its own since v6.17, a migrate type before.
        self._isolate_bit = layout.enumerators.get("PB_migrate_isolate")
        # NR_PAGEBLOCK_BITS was an enumerator until that bit came; now it is __NR_PAGEBLOCK_BITS rounded up: 8.
        self._bits = layout.enumerators.get("NR_PAGEBLOCK_BITS", 4 if self._isolate_bit is None else 8)
        self._count = sections.pages_per_section >> kernel.pageblock_order
        self._bytes = 8 * max(-(-self._count * self._bits // 64), 1)
        self._patterns: dict[bytes, OddPageblocks | None] = {}

    def odd(self, section: int) -> OddPageblocks | None:
        """
        Return the pageblocks of a section, or None if none of them is CMA's or isolated.

        :param section: Position of the section
        :raises FaultError: if its flags cannot be read
        """
        data = self.sections.prog.read(int(self.sections.usage[section]) + self._offset, self._bytes)
        try:
            return self._patterns[data]
        except KeyError:
            pass
        if len(self._patterns) >= MAX_PATTERNS:
            self._patterns.clear()
        odd = self._patterns[data] = self._decode(data)
        return odd

    def migratetype(self, section: int, index: int) -> int:
        """
        Return the migrate type of a pageblock as get_pageblock_migratetype() does: isolated, or what it is else.

        :param section: Position of the section
        :param index: Number of the pageblock in it
        :raises FaultError: if it cannot be read
        """
        per_word = 64 // self._bits
        address = int(self.sections.usage[section]) + self._offset + 8 * (index // per_word)
        flags = int(self.sections.prog.read_u64(address)) >> index % per_word * self._bits
        if self._isolate_bit is not None and self._isolate is not None and flags >> self._isolate_bit & 1:
            return self._isolate
        return flags & 7

    def _decode(self, data: bytes) -> OddPageblocks | None:
        per_word = 64 // self._bits
        shifts = (numpy.arange(self._count, dtype=numpy.uint64) % numpy.uint64(per_word)) * numpy.uint64(self._bits)
        flags = numpy.repeat(numpy.frombuffer(data, "u8"), per_word)[: self._count] >> shifts
        migratetype = flags & numpy.uint64(7)  # the lowest three bits in every kernel
        nowhere = numpy.zeros(self._count, dtype=bool)
        cma = nowhere if self._cma is None else migratetype == self._cma
        if self._isolate_bit is not None:
            isolated = (flags & numpy.uint64(1 << self._isolate_bit)) != 0
        else:
            isolated = nowhere if self._isolate is None else migratetype == self._isolate
        return OddPageblocks(cma, isolated) if cma.any() or isolated.any() else None


def read_pageblocks(sections: Sections, layout: Layout, kernel: Kernel) -> Pageblocks:
    """
    Find out how pageblock flags are kept.

    :raises UnknownLayout: if struct mem_section_usage has no pageblock_flags
    """
    usage = find_type(sections.prog, "struct mem_section_usage")
    if usage is None or not usage.has_member("pageblock_flags"):
        raise UnknownLayout("struct mem_section_usage::pageblock_flags not found")
    return Pageblocks(sections, layout, kernel, _offset(usage, "pageblock_flags"))
