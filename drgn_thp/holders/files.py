# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Open files, and who has them open.

Files are found in their slabs, not by descriptors alone: one that was sent through a socket and not yet received, or
that was registered with io_uring and closed, is in no descriptor table. All is read in bulk: a table of descriptors is
one read, a slab another one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy
from drgn import FaultError, PlatformFlags

from ..context import Context
from ..folios import Column
from .slabs import find_caches, find_slabs, objects
from .tasks import Task, Tasks, read_tasks

MAX_DESCRIPTORS = 1 << 23
"""In one table: 64 MiB."""
MAX_FILES = 1 << 24
# bfilp: files behind those of overlayfs and FUSE, a cache of their own since v7.x
_CACHES = frozenset(("filp", "bfilp"))
# Where caches may be merged (before v6.12), the cache may have another one's name. Newer kernels have no such symbol.
_CACHE_SYMBOL = "filp_cachep"
_KEPT = 1 << 16  # answers on files: who asks for one asks again, of each page that it holds
_DEAD = 0xA000000000000000  # FILE_REF_RELEASED, include/linux/file_ref.h: from here on nobody has it


@dataclass(frozen=True)
class Descriptor:
    """That a process has a file open."""

    pid: int
    """Of the process: its thread group."""
    comm: str
    fd: int


@dataclass(frozen=True)
class _FileTable:
    address: Column
    f_op: Column
    private: Column


@dataclass(frozen=True)
class _Descriptors:
    """Sorted by file."""

    file: Column
    fd: Column
    table: Column
    """Address of the ``struct files_struct``."""


class Files:
    """
    Every open file of a target, read when first asked for.

    :ivar failures: What could not be read, in words
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        self.prog = context.prog
        self.failures: list[str] = []
        self._found: dict[int, list[Descriptor]] = {}
        little = self.prog.platform is None or self.prog.platform.flags & PlatformFlags.IS_LITTLE_ENDIAN
        self._word = numpy.dtype("<u8" if little else ">u8")

    def _offset(self, type_: str, member: str) -> int:
        return int(self.prog.type(type_).member(member).bit_offset) // 8

    @cached_property
    def tasks(self) -> Tasks:
        """The tasks of the target."""
        tasks = read_tasks(self.prog)
        self.failures += tasks.failures
        return tasks

    @cached_property
    def processes(self) -> dict[str, dict[int, list[Task]]]:
        """Tasks by address of their files_struct and mm_struct: one of each process, its leader if that has it."""
        by: dict[str, dict[int, dict[int, Task]]] = {"files": {}, "mm": {}}
        for task in self.tasks.by_address.values():
            for name, address in (("files", task.files), ("mm", task.mm)):
                if address:
                    same = by[name].setdefault(address, {})
                    if task.tgid not in same or task.pid == task.tgid:
                        same[task.tgid] = task
        return {
            name: {address: sorted(same.values(), key=lambda task: task.tgid) for address, same in found.items()}
            for name, found in by.items()
        }

    @cached_property
    def _descriptors(self) -> _Descriptors:
        fdt_at, fd_at = self._offset("struct files_struct", "fdt"), self._offset("struct fdtable", "fd")
        max_at = self._offset("struct fdtable", "max_fds")
        files: list[Column] = []
        fds: list[Column] = []
        tables: list[Column] = []
        for address in sorted(self.processes["files"]):
            try:
                fdt = self.prog.read_u64(address + fdt_at)
                count = self.prog.read_u32(fdt + max_at)
                if count > MAX_DESCRIPTORS:
                    self.failures.append(f"descriptors of files_struct {address:#x}: {count} of them cannot be right")
                    continue
                data = self.prog.read(self.prog.read_u64(fdt + fd_at), count * 8)
            except FaultError as error:
                self.failures.append(f"descriptors of files_struct {address:#x}: {error}")
                continue
            # The lowest bits are those of close_on_exec in no kernel so far, but a pointer to a file has none anyhow.
            pointers = numpy.frombuffer(data, self._word).astype(numpy.uint64) & ~numpy.uint64(3)
            used = numpy.flatnonzero(pointers)
            files.append(pointers[used])
            fds.append(used)
            tables.append(numpy.full(len(used), address, numpy.uint64))
        file, fd, table = (
            numpy.concatenate(parts) if parts else numpy.zeros(0, kind)
            for parts, kind in ((files, numpy.uint64), (fds, numpy.int64), (tables, numpy.uint64))
        )
        order = numpy.lexsort((fd, table, file))
        return _Descriptors(file[order], fd[order], table[order])

    @cached_property
    def _files(self) -> _FileTable:
        type_ = self.prog.type("struct file")
        names = {"f_op": "f_op", "private": "private_data", "references": self._reference_member()}
        offsets = {name: self._offset("struct file", member) for name, member in names.items()}
        width = int(type_.size or 0)
        found: list[tuple[Column, Column, Column]] = []
        total = 0
        try:
            symbols = self.prog.symbols(_CACHE_SYMBOL)
            addresses = frozenset(self.prog.read_u64(symbol.address) for symbol in symbols)
            slabs = find_slabs(self.context, find_caches(self.prog, _CACHES, addresses))
            if slabs.unreadable_pages:
                self.failures.append(f"{slabs.unreadable_pages} struct pages, among them perhaps slabs of files")
            for cache in slabs.caches:
                if cache.size < width:
                    continue
                kind = numpy.dtype(
                    {
                        "names": list(offsets),
                        "formats": [self._word] * len(offsets),
                        "offsets": list(offsets.values()),
                        "itemsize": cache.size,
                    }
                )
                for address, fields in objects(self.context, cache, kind, self.failures):
                    fields = fields.astype(fields.dtype.newbyteorder("="))
                    used = self._in_use(fields["references"]) & (fields["f_op"] != 0)
                    total += int(used.sum())
                    if total > MAX_FILES:
                        self.failures.append(f"more than {MAX_FILES} files: the others were not looked at")
                        break
                    found.append((address[used], fields["f_op"][used], fields["private"][used]))
        except (FaultError, LookupError) as error:
            self.failures.append(f"slabs of files: {error}")
        address, f_op, private = (
            numpy.concatenate([part[i] for part in found]).astype(numpy.uint64)
            if found
            else numpy.zeros(0, numpy.uint64)
            for i in range(3)
        )
        more = self._outside(numpy.setdiff1d(self._descriptors.file, address), offsets)
        table = [numpy.concatenate(parts) for parts in zip((address, f_op, private), more)]
        order = numpy.argsort(table[0])
        return _FileTable(*(column[order] for column in table))

    def _reference_member(self) -> str:
        # f_ref since 90ee6ed776c0 ("fs: port files to file_ref") (in v6.13): 0 stands for one reference.
        return "f_ref" if self.prog.type("struct file").has_member("f_ref") else "f_count"

    def _in_use(self, references: Column) -> Column:
        if self._reference_member() == "f_ref":
            return references < numpy.uint64(_DEAD)
        return (references != 0) & (references < numpy.uint64(1 << 63))

    def _outside(self, addresses: Column, offsets: dict[str, int]) -> tuple[Column, Column, Column]:
        """Read files that have descriptors, but are in no slab that was found, one by one."""
        kept, f_op, private = [], [], []
        failed = 0
        for address in addresses.tolist():
            try:
                pair = self.prog.read_u64(address + offsets["f_op"]), self.prog.read_u64(address + offsets["private"])
            except FaultError:
                failed += 1
                continue
            kept.append(address)
            f_op.append(pair[0])
            private.append(pair[1])
        if failed:
            self.failures.append(f"{failed} files that have descriptors cannot be read")
        kept_column, f_op_column, private_column = (numpy.array(part, numpy.uint64) for part in (kept, f_op, private))
        return kept_column, f_op_column, private_column

    def __len__(self) -> int:
        return len(self._files.address)

    @property
    def addresses(self) -> list[int]:
        """Addresses of every ``struct file`` that is in use."""
        found: list[int] = self._files.address.tolist()
        return found

    @property
    def operations(self) -> list[int]:
        """Addresses of every ``struct file_operations`` that some file has."""
        found: list[int] = numpy.unique(self._files.f_op).tolist()
        return found

    def having(self, operations: Iterable[int | None]) -> Iterator[tuple[int, int]]:
        """
        Yield address and ``private_data`` of the files with one of some ``struct file_operations``.

        :param operations: Their addresses; None is left out
        """
        wanted = numpy.array([address for address in operations if address], numpy.uint64)
        files = self._files
        chosen = numpy.isin(files.f_op, wanted)
        yield from zip(files.address[chosen].tolist(), files.private[chosen].tolist())

    def descriptors(self, file: int) -> list[Descriptor]:
        """Return by which descriptors processes have a file open, in order of process and descriptor."""
        found = self._found.get(file)
        if found is None:
            if len(self._found) >= _KEPT:
                self._found.clear()
            found = self._found[file] = self._find(file)
        return found

    def _find(self, file: int) -> list[Descriptor]:
        table, address = self._descriptors, numpy.uint64(file)
        start, stop = int(table.file.searchsorted(address)), int(table.file.searchsorted(address, "right"))
        found = [
            Descriptor(task.tgid, task.comm, fd)
            for files, fd in zip(table.table[start:stop].tolist(), table.fd[start:stop].tolist())
            for task in self.processes["files"].get(files, ())
        ]
        return sorted(found, key=lambda d: (d.pid, d.fd))
