# SPDX-License-Identifier: LGPL-2.1-or-later
"""Make odd cores out of those of the lab: with headers mended, with holes, filtered by makedumpfile, or cut off."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

HEADER = 64
ENTRY = struct.Struct("<IIQQQQQQ")  # type, flags, offset, virtual address, physical address, size twice, alignment
PT_LOAD = 1


class Core:
    """
    A private copy of a core, whose program headers can be rewritten as often as one likes; the memory itself stays.

    :ivar path: The file
    """

    def __init__(self, original: Path, path: Path) -> None:
        subprocess.run(["cp", "--sparse=always", "--reflink=auto", str(original), str(path)], check=True)
        self.path = path
        with path.open("rb") as file:
            header = file.read(HEADER)
            offset, entries = struct.unpack_from("<Q", header, 32)[0], struct.unpack_from("<H", header, 56)[0]
            file.seek(offset)
            self.segments = [ENTRY.unpack(file.read(ENTRY.size)) for _ in range(entries)]
            self._end = path.stat().st_size
            self._first = min(segment[2] for segment in self.segments)

    def _write(self, segments: Sequence[tuple[int, ...]], table: int) -> None:
        with self.path.open("r+b") as file:
            file.seek(32)
            # e_phoff, e_shoff, e_flags, e_ehsize, e_phentsize, e_phnum; sections: none
            file.write(struct.pack("<QQIHHHHHH", table, 0, 0, HEADER, ENTRY.size, len(segments), 0, 0, 0))
            file.seek(table)
            file.write(b"".join(ENTRY.pack(*segment) for segment in segments))

    def mend(self) -> None:
        """
        Put the program headers where makedumpfile expects them: right behind the ELF header.

        QEMU 7.2 puts section headers in between, and a wrong e_ehsize. makedumpfile does not look at e_phoff.
        """
        assert HEADER + len(self.segments) * ENTRY.size <= self._first
        self._write(self.segments, HEADER)

    def remove(self, holes: Iterable[tuple[int, int]]) -> None:
        """
        Leave physical memory out; all of it that was left out before is back.

        :param holes: Address and number of bytes of each piece
        """
        cuts = sorted((start, start + size) for start, size in holes)
        result: list[tuple[int, ...]] = []
        for segment in self.segments:
            kind, flags, offset, virtual, physical, size, _, alignment = segment
            if kind != PT_LOAD:
                result.append(segment)
                continue
            position, end = physical, physical + size
            for start, stop in [cut for cut in cuts if cut[1] > physical and cut[0] < end] + [(end, end)]:
                if start > position:
                    skip, length = position - physical, start - position
                    result.append((kind, flags, offset + skip, virtual, position, length, length, alignment))
                position = max(position, stop)
        assert len(result) < 1 << 16, "too many pieces for e_phnum"
        # Behind the memory there is room for any number of them.
        self._write(result, (self._end + 7) & ~7)

    def cut_off(self, removed: int) -> None:
        """Remove the end of the file; for good."""
        os.truncate(self.path, self._end - removed)


def filtered(core: Core, path: Path, *options: str) -> Path:
    """
    Run makedumpfile on a core whose headers are mended.

    It does not know kernels as new as ours, says so, and does what it can: those are the dumps that people have.
    """
    command = ["makedumpfile", "--message-level", "4", *options, str(core.path), str(path)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return path


def has_zstd() -> bool:
    """Return whether this makedumpfile can compress with zstd."""
    if shutil.which("makedumpfile") is None:  # asked for already when tests are collected, and not run
        return False
    text = subprocess.run(["makedumpfile", "--help"], capture_output=True, text=True, check=False).stdout
    return "zstd support:\n  enabled" in text
