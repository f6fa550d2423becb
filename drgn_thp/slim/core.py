# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The ELF file: one segment for each run of pages, at its physical address and where the direct map has it.

The program headers follow the ELF header, and contents the page grain: some readers insist.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from drgn import Architecture, Platform, PlatformFlags

from ..errors import TargetError

_MACHINES = {
    Architecture.X86_64: 62,
    Architecture.AARCH64: 183,
    Architecture.PPC64: 21,
    Architecture.S390X: 22,
    Architecture.RISCV64: 243,
}
_ET_CORE, _PT_LOAD, _PT_NOTE, _PN_XNUM = 4, 1, 4, 0xFFFF
_READ_WRITE_EXECUTE = 7
_PIECE_BYTES = 1 << 22


class Sink(Protocol):
    """Where the bytes go."""

    def write(self, data: bytes, /) -> object: ...


@dataclass(frozen=True)
class Layout:
    """
    What does not depend on the pages.

    :ivar notes: Name and contents of each note.
    :ivar direct_map: Virtual address of physical address 0.
    """

    platform: Platform
    page_size: int
    direct_map: int
    notes: tuple[tuple[str, bytes], ...]

    @property
    def order(self) -> str:
        return "<" if self.platform.flags & PlatformFlags.IS_LITTLE_ENDIAN else ">"


def write_core(sink: Sink, layout: Layout, runs: list[tuple[int, int]], read: Callable[[int, int], bytes]) -> None:
    """
    Write a core.

    :param runs: Ranges of page frames, in ascending order
    :param read: Returns the contents of a range of page frames
    """
    notes = b"".join(_note(layout.order, name, data) for name, data in layout.notes)
    count = len(runs) + 1
    many = count >= _PN_XNUM
    # A number that does not fit into the header is in the first section header.
    headers = 64 + count * 56 + (64 if many else 0)
    start = _round_up(headers + len(notes), layout.page_size)
    sink.write(_elf_header(layout, count))
    sink.write(struct.pack(layout.order + "IIQQQQQQ", _PT_NOTE, 0, headers, 0, 0, len(notes), len(notes), 4))
    offset = start
    for first, end in runs:
        address, size = first * layout.page_size, (end - first) * layout.page_size
        virtual = (address + layout.direct_map) & 0xFFFFFFFFFFFFFFFF
        fields = (_PT_LOAD, _READ_WRITE_EXECUTE, offset, virtual, address, size, size, layout.page_size)
        sink.write(struct.pack(layout.order + "IIQQQQQQ", *fields))
        offset += size
    if many:
        sink.write(struct.pack(layout.order + "IIQQQQIIQQ", 0, 0, 0, 0, 0, 1, 0, count, 0, 0))
    sink.write(notes + bytes(start - headers - len(notes)))
    step = _PIECE_BYTES // layout.page_size
    for first, end in _pieces(runs, step):
        sink.write(read(first, end))


def _pieces(runs: Iterable[tuple[int, int]], step: int) -> Iterable[tuple[int, int]]:
    for first, end in runs:
        for position in range(first, end, step):
            yield position, min(position + step, end)


def _elf_header(layout: Layout, count: int) -> bytes:
    machine = _MACHINES.get(layout.platform.arch)
    if machine is None:
        raise TargetError(f"no slim cores of this architecture ({layout.platform.arch.name})")
    many = count >= _PN_XNUM
    ident = b"\x7fELF\x02" + (b"\x01" if layout.order == "<" else b"\x02") + b"\x01".ljust(10, b"\0")
    sections = (64 + count * 56, 64, 1) if many else (0, 64, 0)
    return ident + struct.pack(
        layout.order + "HHIQQQIHHHHHH",
        *(_ET_CORE, machine, 1, 0, 64, sections[0], 0, 64, 56),
        *(_PN_XNUM if many else count, sections[1], sections[2], 0),
    )


def _note(order: str, name: str, data: bytes) -> bytes:
    raw = name.encode() + b"\0"
    return (
        struct.pack(order + "III", len(raw), len(data), 0) + raw + bytes(-len(raw) % 4) + data + bytes(-len(data) % 4)
    )


def _round_up(value: int, grain: int) -> int:
    return -(-value // grain) * grain
