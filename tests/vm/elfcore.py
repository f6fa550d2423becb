# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read an ELF core by physical address: what the lab itself needs to know of a dump, without asking drgn."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PT_LOAD = 1
PT_NOTE = 4


@dataclass(frozen=True)
class Segment:
    """One piece of physical memory in the file."""

    address: int
    size: int
    offset: int


class ElfCore:
    """A 64-bit little-endian ELF core."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self._file = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        if self._file[:6] != b"\x7fELF\x02\x01":
            raise ValueError(f"{path} is not a 64-bit little-endian ELF file")
        self.segments: list[Segment] = []
        self._notes: list[Segment] = []
        offset, entry_size, entries = struct.unpack_from("<Q14xHH", self._file, 32)
        for i in range(entries):
            # p_type, p_offset, p_paddr, p_filesz
            kind, start, address, size = struct.unpack_from("<I4xQ8xQQ", self._file, offset + i * entry_size)
            if kind in (PT_LOAD, PT_NOTE):
                (self.segments if kind == PT_LOAD else self._notes).append(Segment(address, size, start))

    def read(self, address: int, size: int) -> bytes:
        """
        Read physical memory.

        :raises ValueError: if the dump does not have all of it
        """
        for segment in self.segments:
            if segment.address <= address and address + size <= segment.address + segment.size:
                start = segment.offset + address - segment.address
                return self._file[start : start + size]
        raise ValueError(f"physical address {address:#x} is not in the dump")

    def find(self, pattern: bytes) -> Iterator[int]:
        """Yield the physical addresses at which a pattern occurs."""
        for segment in self.segments:
            position = self._file.find(pattern, segment.offset, segment.offset + segment.size)
            while position >= 0:
                yield segment.address + position - segment.offset
                position = self._file.find(pattern, position + 1, segment.offset + segment.size)

    def vmcoreinfo(self) -> dict[str, str]:
        """Return the kernel's own note on itself; empty if the dump has none."""
        for note in self._notes:
            position, end = note.offset, note.offset + note.size
            while position + 12 <= end:
                name_size, size, _ = struct.unpack_from("<III", self._file, position)
                name = self._file[position + 12 : position + 12 + name_size].rstrip(b"\0")
                position += 12 + (name_size + 3) // 4 * 4
                if name == b"VMCOREINFO":
                    text = self._file[position : position + size].rstrip(b"\0").decode()
                    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
                position += (size + 3) // 4 * 4
        return {}


def build_id(path: Path) -> str:
    """Return the build ID of an ELF file, from its section of notes; empty if it has none."""
    with path.open("rb") as file:
        header = file.read(64)
        offset, entry_size, entries, names_index = struct.unpack_from("<Q10xHHH", header, 40)
        file.seek(offset)
        table = file.read(entry_size * entries)
        sections = [struct.unpack_from("<IIQQQQ", table, i * entry_size) for i in range(entries)]
        names_at, names_size = sections[names_index][4:6]
        file.seek(names_at)
        names = file.read(names_size)
        for name, _, _, _, at, size in sections:
            if not names[name:].startswith(b".note"):
                continue
            file.seek(at)
            notes = file.read(size)
            position = 0
            while position + 12 <= len(notes):
                owner_size, data_size, kind = struct.unpack_from("<III", notes, position)
                owner = notes[position + 12 : position + 12 + owner_size]
                position += 12 + (owner_size + 3) // 4 * 4
                if owner == b"GNU\0" and kind == 3:
                    return notes[position : position + data_size].hex()
                position += (data_size + 3) // 4 * 4
    return ""
