# SPDX-License-Identifier: LGPL-2.1-or-later
"""A dump whose memory can be written to: a Program over the core, with pages of ours laid over those of the file."""

from __future__ import annotations

import mmap
import struct
from bisect import bisect_left
from collections.abc import Sequence

from drgn import FaultError, Program
from drgn.helpers.linux.mm import follow_phys

from drgn_thp.target import Target, TargetSpec, open_target
from drgn_thp.target.modules import STRUCTS
from tests.vm.elfcore import ElfCore, Segment
from tests.vm.lab import Dump

from .opened import spec_of

PAGE_SIZE = 4096


def forget(prog: Program) -> None:
    """Have everything read anew, but for types: a Program never lets go of those."""
    structs = prog.cache.get(STRUCTS)
    prog.cache.clear()
    if structs is not None:
        prog.cache[STRUCTS] = structs


class Overlay:
    """
    One dump, to be damaged and mended again.

    Everything is laid over physical memory, so that page tables can be damaged like anything else.

    :ivar target: What to hand to the command in place of a target that it opened itself.
    """

    def __init__(self, dump: Dump) -> None:
        self.dump = dump
        self.target: Target = open_target(self.spec(dump))
        self.prog: Program = self.target.prog
        self._core = ElfCore(dump.vmcore)
        self._file = mmap_of(dump)
        self._pages: dict[int, bytearray] = {}
        self._sorted: list[int] = []
        self._unreadable: set[int] = set()
        page = self.prog.type("struct page")
        assert page.size is not None
        self.page_size = page.size
        self.vmemmap = int(self.prog["vmemmap"].value_())
        self._init_mm = self.prog["init_mm"].address_of_()
        for segment in self._core.segments:
            self._add(segment)

    def spec(self, dump: Dump) -> TargetSpec:
        """Return how to open a dump."""
        return spec_of(dump)

    def _add(self, segment: Segment) -> None:
        def read(address: int, count: int, offset: int, physical: bool) -> bytes:
            return self._read(address, count, segment.offset + offset)

        self.prog.add_memory_segment(segment.address, segment.size, read, True)

    def _read(self, address: int, count: int, position: int) -> bytes:
        data = self._file[position : position + count]
        first, last = address // PAGE_SIZE, (address + count - 1) // PAGE_SIZE
        i = bisect_left(self._sorted, first)
        if i == len(self._sorted) or self._sorted[i] > last:
            return data
        result = bytearray(data)
        for frame in self._sorted[i:]:
            if frame > last:
                break
            if frame in self._unreadable:
                raise FaultError("not in this dump", address)
            start, end = max(frame * PAGE_SIZE, address), min((frame + 1) * PAGE_SIZE, address + count)
            page = self._pages[frame]
            result[start - address : end - address] = page[start - frame * PAGE_SIZE : end - frame * PAGE_SIZE]
        return bytes(result)

    def mend(self) -> None:
        """Take back all damage, and forget what was read."""
        self._pages.clear()
        self._unreadable.clear()
        self._sorted = []
        forget(self.prog)

    def write_physical(self, address: int, data: bytes) -> None:
        """
        Write to physical memory.

        :raises ValueError: if the dump does not have it
        """
        position = 0
        while position < len(data):
            frame, offset = divmod(address + position, PAGE_SIZE)
            page = self._pages.get(frame)
            if page is None:
                page = self._pages[frame] = bytearray(self._core.read(frame * PAGE_SIZE, PAGE_SIZE))
                self._sorted.insert(bisect_left(self._sorted, frame), frame)
            piece = data[position : position + PAGE_SIZE - offset]
            page[offset : offset + len(piece)] = piece
            position += len(piece)

    def write(self, address: int, data: bytes) -> None:
        """
        Write to a kernel address.

        :raises FaultError: if it is not mapped
        """
        position = 0
        while position < len(data):
            here = address + position
            piece = data[position : position + PAGE_SIZE - here % PAGE_SIZE]
            self.write_physical(self.physical(here), piece)
            position += len(piece)

    def write_u64(self, address: int, value: int) -> None:
        self.write(address, struct.pack("<Q", value & 0xFFFFFFFFFFFFFFFF))

    def write_u32(self, address: int, value: int) -> None:
        self.write(address, struct.pack("<I", value & 0xFFFFFFFF))

    def make_unreadable(self, frame: int) -> None:
        """Make a page of physical memory fail to be read, as pages that a filtered dump left out do."""
        self._unreadable.add(frame)
        if frame not in self._pages:
            self._pages[frame] = bytearray(PAGE_SIZE)
            self._sorted.insert(bisect_left(self._sorted, frame), frame)

    def physical(self, address: int) -> int:
        """
        Return where a kernel address lies in physical memory.

        :raises FaultError: if it is not mapped
        """
        return int(follow_phys(self._init_mm, address))

    def page_address(self, pfn: int) -> int:
        """Return the address of a struct page."""
        address: int = self.vmemmap + pfn * self.page_size
        return address

    @property
    def memory(self) -> Sequence[Segment]:
        """The pieces of physical memory that the dump has."""
        return self._core.segments


def mmap_of(dump: Dump) -> mmap.mmap:
    """Return the core as memory."""
    with dump.vmcore.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
