# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Cores in .gz and .zst, unpacked into anonymous memory: nothing that a dump holds may be left behind on a disk.

Long runs of zeros, of which dumps are full, become holes and take no memory.
"""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import tempfile
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

from ..errors import TargetError

GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_ZSTD_SKIPPABLE = tuple(bytes((0x50 + i, 0x2A, 0x4D, 0x18)) for i in range(16))
# What drgn may know: ELF, kdump-compressed, and the latter as it comes through a pipe.
_CORES = (b"\x7fELF", b"KDUMP   ", b"makedumpfile\0\0\0\0")
_PIECE = 1 << 20
_HOLE = bytes(1 << 16)
_CHECK_EVERY = 64 << 20
# A few bytes of zstd may stand for 128 KiB, and some decoders return all at once.
_ZSTD_INPUT = 1 << 12
_MAX_WINDOW_LOG = 31
_KEEP_FREE = 256 << 20
MAX_BYTES = 1 << 44


def compression(fd: int) -> str | None:
    """Return how a file is compressed, by its first bytes."""
    start = os.pread(fd, 4, 0)
    if start[:2] == GZIP:
        return "gzip"
    return "zstd" if start == ZSTD or start in _ZSTD_SKIPPABLE else None


def unpack(fd: int, kind: str, path: str) -> int:
    """
    Unpack a core into memory.

    :param fd: The compressed file
    :param kind: What :func:`compression` said
    :return: File descriptor
    :raises TargetError: if it is damaged or cut off, holds no core, or memory does not suffice
    """
    memory = os.memfd_create("vmcore", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(fd), "rb") as file:
            file.seek(0)
            _store(memory, _gunzip(file) if kind == "gzip" else _unzstd(file), path)
    except _Damaged as error:
        os.close(memory)
        raise TargetError(f"{path}: {error}") from error
    except BaseException:
        os.close(memory)
        raise
    return memory


class _Damaged(Exception):
    pass


def _store(memory: int, pieces: Iterator[bytes], path: str) -> None:
    size = stored = checked = 0
    start = b""
    for piece in pieces:
        if len(start) < 16:
            start += piece[:16]
            if len(start) >= 16 and not start.startswith(_CORES):
                raise TargetError(f"{path}: what is compressed there is no core")
        for position in range(0, len(piece), len(_HOLE)):
            part = piece[position : position + len(_HOLE)]
            if part != _HOLE[: len(part)]:
                stored += len(part)
                _write(memory, part, size, path)
            size += len(part)
        if stored >= checked:
            if _available() < _KEEP_FREE:
                raise TargetError(f"{path}: does not fit into memory when decompressed: decompress it to a disk")
            checked = stored + _CHECK_EVERY
        if size > MAX_BYTES:
            raise TargetError(f"{path}: more than {MAX_BYTES >> 40} TiB when decompressed")
        os.ftruncate(memory, size)
    if len(start) < 16:
        raise TargetError(f"{path}: what is compressed there is no core")


def _write(memory: int, data: bytes, offset: int, path: str) -> None:
    view = memoryview(data)
    while view:
        try:
            written = os.pwrite(memory, view, offset)
        except OSError as error:
            raise TargetError(f"{path}: no memory to decompress it: {error.strerror}") from error
        view, offset = view[written:], offset + written


def _available() -> int:
    """Return how many bytes may be allocated, by the machine and by the limit of our control group."""
    available = MAX_BYTES
    try:
        fields = dict(line.split(":", 1) for line in _read_text("/proc/meminfo").splitlines())
        available = int(fields["MemAvailable"].split()[0]) << 10
    except (OSError, KeyError, ValueError, IndexError):
        pass
    try:
        limit, used = (int(_read_text(f"/sys/fs/cgroup/memory.{name}")) for name in ("max", "current"))
        statistics = dict(line.split() for line in _read_text("/sys/fs/cgroup/memory.stat").splitlines())
        cached = int(statistics["active_file"]) + int(statistics["inactive_file"])
        available = min(available, limit - used + cached)
    except (OSError, ValueError, KeyError):  # no such limit
        pass
    return available


def _read_text(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read()


def _gunzip(file: BinaryIO) -> Iterator[bytes]:
    data = file.read(_PIECE)
    while data:
        # One member after the other, as gzip(1) understands it.
        member = zlib.decompressobj(16 + zlib.MAX_WBITS)
        while not member.eof:
            if not data:
                raise _Damaged("the gzip file is cut off")
            try:
                piece = member.decompress(data, _PIECE)
            except zlib.error as error:
                raise _Damaged(f"the gzip file is damaged: {error}") from error
            data = member.unconsumed_tail or (b"" if member.eof else file.read(_PIECE))
            yield piece
        data = (member.unused_data + file.read(_PIECE)).lstrip(b"\0")  # padding to a block of a tape
        if data and not data.startswith(GZIP[: len(data)]):
            raise _Damaged("the gzip file is damaged: something else follows")


def _unzstd(file: BinaryIO) -> Iterator[bytes]:
    for name in ("compression.zstd", "backports.zstd", "pyzstd"):
        module = _import(name)
        if module is not None:
            return _unzstd_by_module(file, module)
    module = _import("zstandard")
    if module is not None and hasattr(module.ZstdDecompressor().decompressobj(), "eof"):
        return _unzstd_by_zstandard(file, module)
    command = shutil.which("zstd")
    if command is not None:
        return _unzstd_by_command(file, command)
    raise _Damaged("is compressed with zstd: install the zstd command or the Python module zstandard, or decompress it")


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def _unzstd_by_module(file: BinaryIO, module: Any) -> Iterator[bytes]:
    """The standard library of Python 3.14, and modules with the same interface."""
    parameter = getattr(module, "DecompressionParameter", None) or module.DParameter
    window = getattr(parameter, "window_log_max", None) or parameter.windowLogMax
    data = file.read(_PIECE)
    while data:
        frame = module.ZstdDecompressor(None, {window: _MAX_WINDOW_LOG})
        while not frame.eof:
            if frame.needs_input and not data:
                raise _Damaged("the zstd file is cut off")
            try:
                piece = frame.decompress(data, _PIECE)
            except module.ZstdError as error:
                raise _Damaged(f"the zstd file is damaged: {error}") from error
            data = file.read(_PIECE) if frame.needs_input and not frame.eof else b""
            yield piece
        data = frame.unused_data or file.read(_PIECE)


def _unzstd_by_zstandard(file: BinaryIO, module: Any) -> Iterator[bytes]:
    decompressor = module.ZstdDecompressor(max_window_size=1 << _MAX_WINDOW_LOG)
    data = file.read(_ZSTD_INPUT)
    while data:
        frame = decompressor.decompressobj()
        while not frame.eof:
            if not data:
                raise _Damaged("the zstd file is cut off")
            try:
                piece = frame.decompress(data)
            except module.ZstdError as error:
                raise _Damaged(f"the zstd file is damaged: {error}") from error
            data = frame.unused_data if frame.eof else file.read(_ZSTD_INPUT)
            yield piece
        data = data or file.read(_ZSTD_INPUT)


def _unzstd_by_command(file: BinaryIO, command: str) -> Iterator[bytes]:
    arguments = [command, "--decompress", "--stdout", "--quiet", f"--long={_MAX_WINDOW_LOG}"]
    with tempfile.TemporaryFile() as complaints:  # of the command, never of the core
        process = subprocess.Popen(arguments, stdin=file, stdout=subprocess.PIPE, stderr=complaints)
        assert process.stdout is not None
        try:
            while True:
                piece = process.stdout.read(_PIECE)
                if not piece:
                    break
                yield piece
            if process.wait():
                complaints.seek(0)
                why = " ".join(complaints.read(1000).decode("utf-8", "backslashreplace").split())
                raise _Damaged(f"the zstd file is cut off or damaged: {why}")
        finally:
            process.kill()
            process.stdout.close()
            process.wait()
