# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A Program that hands every read on to another one and notes the pages: what a slim core has to hold.

It walks the kernel's page tables by itself, so these are noted as well. One call from drgn is one read of consecutive
physical memory, however long; the memmap comes in pieces of megabytes, not page by page.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from types import TracebackType

import drgn
from drgn import FaultError, Program, ProgramFlags

from ..errors import TargetError
from ..folios import Column
from .pages import STRUCTURES, Pages

MAX_PHYSICAL = 1 << 52
MAX_CACHED = 1 << 14
FOLLOWS_PROCESSES = hasattr(drgn, "UnsupportedOperation")
"""Whether drgn follows page tables of processes by physical addresses. Nothing shows it, but this came in 0.3, too."""
REGION = 1 << 21
"""What a page table maps, at the least."""


class Recorder:
    """
    Reads on behalf of Programs made by :meth:`program`.

    Memory of a live target changes while it is read. There, a page is kept as it was when first read, so that what is
    written is what was analysed.

    :ivar bulk: Kind of the pages that are read many at a time, from now on.
    :ivar find_users: Returns which of a range of page frames hold contents of processes or files. Reads of those fail.
    :ivar read_directly: Regions of the direct map that were read without their page tables, by number.
    :ivar refused: Page frames that were asked for, and refused for that.
    """

    def __init__(self, source: Program, page_size: int, directory: str) -> None:
        self.source = source
        self.page_size = page_size
        self.pages = Pages()
        self.bulk = STRUCTURES
        self.find_users: Callable[[int, int], Column] | None = None
        self.read_directly: set[int] = set()
        self.refused: set[int] = set()
        self._cache: dict[int, bytes] = {}
        self.live = bool(source.flags & ProgramFlags.IS_LIVE)
        # Beside the output, never elsewhere: it has the same contents.
        self._spool = tempfile.TemporaryFile(dir=directory) if self.live else None  # noqa: SIM115 (closed on exit)

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, type_: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._spool is not None:
            self._spool.close()

    def program(self, vmcoreinfo: bytes) -> Program:
        """
        Return a Program whose reads are recorded.

        :raises TargetError: if this drgn cannot do that
        """
        prog = Program(self.source.platform)
        if not hasattr(prog, "set_linux_kernel_custom"):
            raise TargetError("this version of drgn cannot read memory through Python: slim needs drgn 0.1 or newer")
        prog.add_memory_segment(0, MAX_PHYSICAL, self._read, True)
        prog.set_linux_kernel_custom(vmcoreinfo, self.live)
        return prog

    def map_directly(self, prog: Program, start: int, size: int) -> None:
        """
        Tell a Program made by :meth:`program` where the direct map is.

        drgn finds out by itself, but before 0.3 not while it follows the page tables of a process: those it reads by
        virtual addresses, and gives up when a page table is needed to find a page table.

        :param start: Virtual address of physical address 0
        """
        if FOLLOWS_PROCESSES or not size:
            return

        def read(address: int, count: int, offset: int, physical: bool) -> bytes:
            self.read_directly.update(range(address // REGION, (address + count - 1) // REGION + 1))
            return self._read(offset, count, 0, True)

        prog.add_memory_segment(start, size, read, False)

    def _read(self, address: int, count: int, offset: int, physical: bool) -> bytes:
        first, start = divmod(address, self.page_size)
        end = -(-(address + count) // self.page_size)
        if end - first == 1:
            page = self._cache.get(first)
            if page is None:
                page = self._take(first, end)
                if len(self._cache) >= MAX_CACHED:
                    self._cache.clear()
                self._cache[first] = page
            return page[start : start + count]
        return self._take(first, end)[start : start + count]

    def _take(self, first: int, end: int) -> bytes:
        """
        Read whole pages, and note them.

        :raises FaultError: if they cannot be read, or are none of the kernel's
        """
        if not self.pages.hold(first, end):
            if self.find_users is not None:
                users = self.find_users(first, end)
                if len(users):
                    self.refused.update(users.tolist())
                    raise FaultError(
                        "page of a process, a file or nobody: not recorded", int(users[0]) * self.page_size
                    )
            data = self._read_new(first, end)
        else:
            data = self.read(first, end)
        many = end - first > 1
        self.pages.add(first, end, self.bulk if many else STRUCTURES, overrule=many)
        return data

    def _read_new(self, first: int, end: int) -> bytes:
        if self._spool is None:
            return self._read_source(first, end)
        parts = []
        for start, stop, held in self.pages.split(first, end):
            if held:
                parts.append(self.read(start, stop))
            else:
                parts.append(self._read_source(start, stop))
                # By physical address: the file has holes where nothing was read.
                self._pwrite(parts[-1], start * self.page_size)
        return b"".join(parts)

    def _read_source(self, first: int, end: int) -> bytes:
        data: bytes = self.source.read(first * self.page_size, (end - first) * self.page_size, True)
        return data

    def _pwrite(self, data: bytes, offset: int) -> None:
        assert self._spool is not None
        view = memoryview(data)
        try:
            while view:
                written = os.pwrite(self._spool.fileno(), view, offset)
                view, offset = view[written:], offset + written
        except OSError as error:
            raise TargetError(f"no room to keep what was read of the live target: {error.strerror}") from error

    def read(self, first: int, end: int) -> bytes:
        """
        Return pages that were noted, as they were when they were.

        :raises FaultError: if they cannot be read any more
        """
        if self._spool is None:
            return self._read_source(first, end)
        start, size = first * self.page_size, (end - first) * self.page_size
        data = b""
        while len(data) < size:
            part = os.pread(self._spool.fileno(), size - len(data), start + len(data))
            if not part:
                raise FaultError("page was not kept", start + len(data))
            data += part
        return data
