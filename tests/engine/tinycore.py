# SPDX-License-Identifier: LGPL-2.1-or-later
"""A core dump of a process, as small as can be: what people hand over when they were asked for "the core"."""

from __future__ import annotations

import struct

ET_CORE, EM_X86_64, PT_LOAD, PT_NOTE = 4, 62, 1, 4
NT_PRSTATUS, NT_PRPSINFO, NT_AUXV = 1, 3, 6


def _note(kind: int, data: bytes) -> bytes:
    return struct.pack("<III", 5, len(data), kind) + b"CORE\0\0\0\0" + data.ljust((len(data) + 3) & ~3, b"\0")


def tiny_core(notes: bool = True) -> bytes:
    """
    Return an ELF core of an x86-64 process that has one page of memory.

    :param notes: Whether it has the notes that every core of a process has: registers, name, auxiliary vector
    """
    described = b""
    if notes:
        described = _note(NT_PRSTATUS, bytes(336)) + _note(NT_PRPSINFO, bytes(136)) + _note(NT_AUXV, bytes(16))
    notes_at = 64 + 2 * 56
    memory_at = (notes_at + len(described) + 4095) & ~4095
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header = ident + struct.pack("<HHIQQQIHHHHHH", ET_CORE, EM_X86_64, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    segments = struct.pack("<IIQQQQQQ", PT_NOTE, 4, notes_at, 0, 0, len(described), len(described), 4)
    segments += struct.pack("<IIQQQQQQ", PT_LOAD, 6, memory_at, 0x400000, 0, 4096, 4096, 4096)
    return (header + segments + described).ljust(memory_at, b"\0") + bytes(4096)
