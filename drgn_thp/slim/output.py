# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The file that is written: compressed as its name says, complete or not there at all.

It holds memory of a kernel, so nobody but its owner may read it.
"""

from __future__ import annotations

import gzip
import importlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from ..errors import BadArgument, TargetError
from .core import Sink

SUFFIXES = (".elf", ".elf.gz", ".elf.zst")
_GZIP_LEVEL, _ZSTD_LEVEL = 6, 9
_ZSTD_MODULES = ("compression.zstd", "backports.zstd", "pyzstd", "zstandard")


def check_output(path: str, source: str | None) -> None:
    """
    Find out before the work whether a file can be written.

    :param source: The core that is read
    :raises BadArgument: if its name does not say how to compress, or it is the source or no regular file
    :raises TargetError: if it cannot be compressed so here
    """
    if not path.endswith(SUFFIXES):
        raise BadArgument(f"--output {path}: its name must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")
    if os.path.exists(path):
        if not os.path.isfile(path):
            raise BadArgument(f"--output {path}: not a regular file")
        if source is not None and os.path.exists(source) and os.path.samefile(path, source):
            raise BadArgument(f"--output {path}: that is the core that is to be read")
    directory = os.path.dirname(path) or "."
    if not os.path.isdir(directory):
        raise BadArgument(f"--output {path}: no such directory")
    if path.endswith(".zst") and _zstd_module() is None and shutil.which("zstd") is None:
        raise TargetError(f"{path}: install the zstd command or the Python module zstandard, or write .elf.gz")


@contextmanager
def scratch_beside(path: str) -> Iterator[str]:
    """
    Give the name of an empty file beside another, which is removed unless it has been renamed.

    :raises TargetError: if there can be none
    """
    directory, name = os.path.split(path)
    try:
        fd, scratch = tempfile.mkstemp(prefix=f".{name}.", dir=directory or ".")
    except OSError as error:
        raise TargetError(f"{path}: {error.strerror or error}") from error
    os.close(fd)
    try:
        yield scratch
    except OSError as error:
        raise TargetError(f"{path}: {error.strerror or error}") from error
    finally:
        if os.path.exists(scratch):
            os.unlink(scratch)


@contextmanager
def compressing(path: str, suffix_of: str) -> Iterator[Sink]:
    """
    Write a file, compressed as another name says, and onto the disk.

    :param path: The file
    :param suffix_of: The name
    """
    with open(path, "wb") as file:
        if suffix_of.endswith(".gz"):
            # Without a time, so that equal contents give equal files.
            with gzip.GzipFile("", "wb", _GZIP_LEVEL, file, 0) as packed:
                yield packed
        elif suffix_of.endswith(".zst"):
            with _zstd(file) as sink:
                yield sink
        else:
            yield file
        file.flush()
        os.fsync(file.fileno())


def _zstd_module() -> Any:
    for name in _ZSTD_MODULES:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    return None


@contextmanager
def _zstd(file: BinaryIO) -> Iterator[Sink]:
    module = _zstd_module()
    if module is None:
        command = shutil.which("zstd") or "zstd"
        arguments = [command, "--compress", "--stdout", "--quiet", f"-{_ZSTD_LEVEL}"]
        with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=file) as process:
            assert process.stdin is not None
            try:
                yield process.stdin
            finally:
                process.stdin.close()
        if process.returncode:
            raise TargetError(f"{command} failed with status {process.returncode}")
    elif hasattr(module, "ZstdFile"):  # the standard library of Python 3.14, and modules like it
        with module.ZstdFile(file, "wb", **_level(module)) as packed:
            yield packed
    else:
        with module.ZstdCompressor(level=_ZSTD_LEVEL).stream_writer(file, closefd=False) as packed:
            yield packed


def _level(module: Any) -> dict[str, int]:
    return {"level_or_option": _ZSTD_LEVEL} if module.__name__ == "pyzstd" else {"level": _ZSTD_LEVEL}
