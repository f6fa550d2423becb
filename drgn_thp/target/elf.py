# SPDX-License-Identifier: LGPL-2.1-or-later
"""The little of ELF that is asked of a file before drgn gets it: what it is, of which build, and if it is whole."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

MAX_HEADERS = 1 << 24  # bytes of program or section headers
MAX_NOTES = 1 << 20
MAX_SECTION = 64 << 20
ET_REL, ET_EXEC, ET_DYN, ET_CORE = 1, 2, 3, 4
PT_LOAD, PT_NOTE, _SHT_NOTE, _SHT_NOBITS = 1, 4, 7, 8
_PN_XNUM = 0xFFFF
_NT_GNU_BUILD_ID = 3


class Piece(NamedTuple):
    """A segment or section, in the file."""

    type: int
    name: int
    offset: int
    size: int


@dataclass(frozen=True)
class Elf:
    """A 64-bit ELF file, read through a descriptor that must stay open."""

    fd: int
    order: str
    type: int
    segments: list[Piece]
    sections: list[Piece]
    names: int
    size: int

    def build_id(self) -> bytes | None:
        for name, type_, description in self._notes():
            if name == b"GNU\0" and type_ == _NT_GNU_BUILD_ID:
                return description
        return None

    def note(self, name: str) -> bytes | None:
        """Return what the first note of a name says."""
        wanted = name.encode() + b"\0"
        return next((description for found, _, description in self._notes() if found == wanted), None)

    def _notes(self) -> Iterator[tuple[bytes, int, bytes]]:
        pieces = [s for s in self.segments if s.type == PT_NOTE] + [s for s in self.sections if s.type == _SHT_NOTE]
        for piece in pieces:
            yield from self._notes_in(os.pread(self.fd, min(piece.size, MAX_NOTES), piece.offset))

    def _notes_in(self, data: bytes) -> Iterator[tuple[bytes, int, bytes]]:
        position = 0
        while position + 12 <= len(data):
            name_size, size, type_ = struct.unpack_from(self.order + "III", data, position)
            start = position + 12 + (name_size + 3) // 4 * 4
            yield data[position + 12 : position + 12 + name_size], type_, data[start : start + size]
            position = start + (size + 3) // 4 * 4

    def section(self, name: str) -> bytes | None:
        """Return the contents of a section."""
        if not 0 <= self.names < len(self.sections):
            return None
        table = self.sections[self.names]
        names = os.pread(self.fd, min(table.size, MAX_NOTES), table.offset)
        wanted = name.encode() + b"\0"
        for section in self.sections:
            if names[section.name : section.name + len(wanted)] == wanted and section.type != _SHT_NOBITS:
                return os.pread(self.fd, min(section.size, MAX_SECTION), section.offset)
        return None

    def has_impossible_segments(self) -> bool:
        """Return whether a segment reaches beyond what a file can be."""
        return any(s.offset + s.size >= 1 << 63 for s in self.segments)

    def missing_bytes(self) -> int:
        """Return how many bytes of its segments lie beyond the end of the file."""
        return sum(
            max(0, s.offset + s.size - max(self.size, s.offset)) for s in self.segments if s.type in (PT_LOAD, PT_NOTE)
        )


def read_elf(fd: int) -> Elf | None:
    """
    Return what a file says of itself, or None if it is not a 64-bit ELF file.

    :raises OSError: if it cannot be read
    """
    header = os.pread(fd, 64, 0)
    if len(header) < 64 or header[:5] != b"\x7fELF\x02" or header[5] not in (1, 2):
        return None
    order = "<" if header[5] == 1 else ">"
    (type_,) = struct.unpack_from(order + "H", header, 16)
    phoff, shoff = struct.unpack_from(order + "QQ", header, 32)
    phentsize, phnum, shentsize, shnum, names = struct.unpack_from(order + "HHHHH", header, 54)
    if phnum == _PN_XNUM or (shoff and not shnum):
        # Numbers that do not fit are in the first section header.
        first = os.pread(fd, 64, shoff)
        if len(first) == 64:
            shnum = shnum or struct.unpack_from(order + "Q", first, 32)[0]
            phnum = struct.unpack_from(order + "I", first, 44)[0] if phnum == _PN_XNUM else phnum
    segments = [
        Piece(kind, 0, offset, size)
        for kind, _, offset, _, _, size in _table(fd, phoff, phnum, phentsize, order + "IIQQQQ")
    ]
    sections = [
        Piece(kind, name, offset, size)
        for name, kind, _, _, offset, size in _table(fd, shoff, shnum, shentsize, order + "IIQQQQ")
    ]
    return Elf(fd, order, type_, segments, sections, names, os.fstat(fd).st_size)


def _table(fd: int, offset: int, count: int, width: int, form: str) -> Iterator[tuple[int, ...]]:
    if width < struct.calcsize(form) or not offset or offset >= 1 << 62:
        return
    data = os.pread(fd, min(count * width, MAX_HEADERS), offset)
    for position in range(0, len(data) - width + 1, width):
        yield struct.unpack_from(form, data, position)
