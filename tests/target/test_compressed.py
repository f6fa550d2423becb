# SPDX-License-Identifier: LGPL-2.1-or-later
"""Compressed cores, and what is wrong with some."""

from __future__ import annotations

import gc
import gzip
import importlib
import os
import shutil
import struct
import zlib
from pathlib import Path

import pytest

from drgn_thp.errors import TargetError
from drgn_thp.target import TargetSpec, compressed, open_target

from .minikernel import RELEASE, MiniKernel


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    data = MiniKernel().write(tmp_path_factory.mktemp("core") / "vmcore").read_bytes()
    return data + bytes(3 << 20)


def zstd(data: bytes) -> bytes:
    """Return a frame of raw and RLE blocks (RFC 8878): what the tests need no compressor for."""
    blocks = []
    for start in range(0, len(data), 100_000):
        block = data[start : start + 100_000]
        if len(block) > 1 and block == block[:1] * len(block):
            blocks.append((1, len(block), block[:1]))
        else:
            blocks.append((0, len(block), block))
    frame = struct.pack("<IBQ", 0xFD2FB528, 0xE0, len(data))
    for number, (kind, size, content) in enumerate(blocks):
        frame += struct.pack("<I", size << 3 | kind << 1 | (number == len(blocks) - 1))[:3] + content
    return frame


DECODERS = ("compression.zstd", "backports.zstd", "pyzstd", "zstandard", "command")


@pytest.fixture(params=DECODERS)
def decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Leave one way of decompressing zstd."""
    name: str = request.param
    if name == "command":
        if shutil.which("zstd") is None:
            pytest.skip("there is no zstd command")
    else:
        pytest.importorskip(name)
        monkeypatch.setattr(shutil, "which", lambda command: None)
    monkeypatch.setattr(
        compressed, "_import", lambda wanted: importlib.import_module(wanted) if wanted == name else None
    )
    return name


def opens(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    target = open_target(TargetSpec(core=str(path)))
    assert target.release == RELEASE
    assert target.prog.type("struct page").size == 64


def fails(path: Path, data: bytes, message: str) -> None:
    path.write_bytes(data)
    with pytest.raises(TargetError, match=message) as caught:
        open_target(TargetSpec(core=str(path)))
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_gzip(tmp_path: Path, core: bytes) -> None:
    path = tmp_path / "vmcore.gz"
    opens(path, gzip.compress(core))
    opens(path, gzip.compress(core[:5000]) + gzip.compress(core[5000:]))
    opens(path, gzip.compress(core) + bytes(1000))


def test_gzip_by_content_and_not_by_name(tmp_path: Path, core: bytes) -> None:
    opens(tmp_path / "vmcore", gzip.compress(core))
    opens(tmp_path / "vmcore.gz", core)


def test_damaged_gzip(tmp_path: Path, core: bytes) -> None:
    path, data = tmp_path / "vmcore.gz", gzip.compress(core)
    for size in (4, 12, len(data) // 2, len(data) - 1):
        fails(path, data[:size], "cut off")
    fails(path, data[:-6] + b"\xff" + data[-5:], "damaged")
    middle = len(data) // 3
    fails(path, data[:middle] + bytes(100) + data[middle + 100 :], "damaged")
    fails(path, data + b"something else", "something else follows")


def test_zstd(tmp_path: Path, core: bytes, decoder: str) -> None:
    path = tmp_path / "vmcore.zst"
    opens(path, zstd(core))
    opens(path, zstd(core[:5000]) + zstd(core[5000:]))
    opens(path, struct.pack("<II", 0x184D2A50, 5) + b"extra" + zstd(core))


def test_damaged_zstd(tmp_path: Path, core: bytes, decoder: str) -> None:
    path, data = tmp_path / "vmcore.zst", zstd(core)
    for size in (6, 14, len(data) // 2, len(data) - 1):
        fails(path, data[:size], "cut off")
    fails(path, data[:13] + b"\xff\xff\xff" + data[16:], "damaged")
    fails(path, data + b"something else", "damaged")


def test_zstd_without_any_decoder(tmp_path: Path, core: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda command: None)
    monkeypatch.setattr(compressed, "_import", lambda name: None)
    fails(tmp_path / "vmcore.zst", zstd(core), "install")


@pytest.mark.parametrize("content", [b"", b"short", b"not a core" * 1000])
def test_other_things_that_are_compressed(tmp_path: Path, content: bytes) -> None:
    fails(tmp_path / "notes.gz", gzip.compress(content), "no core")


def test_no_descriptor_is_left_open(tmp_path: Path, core: bytes) -> None:
    gc.collect()  # Programs of other tests
    before = len(os.listdir("/proc/self/fd"))
    opens(tmp_path / "vmcore.gz", gzip.compress(core))
    fails(tmp_path / "vmcore.gz", gzip.compress(core)[:-1], "cut off")
    fails(tmp_path / "vmcore.gz", gzip.compress(b"text" * 100), "no core")
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before


def test_zeros_take_no_memory(tmp_path: Path, core: bytes) -> None:
    path = tmp_path / "vmcore.gz"
    compressor = zlib.compressobj(1, wbits=31)
    zeros = bytes(1 << 20)
    data = compressor.compress(core) + b"".join(compressor.compress(zeros) for _ in range(200)) + compressor.flush()
    path.write_bytes(data)
    fd = os.open(path, os.O_RDONLY)
    memory = compressed.unpack(fd, "gzip", str(path))
    status = os.fstat(memory)
    assert status.st_size == len(core) + (200 << 20)
    assert status.st_blocks * 512 < 1 << 20
    os.close(memory)
    os.close(fd)


def test_not_enough_memory(tmp_path: Path, core: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compressed, "_available", lambda: 1 << 20)
    fails(tmp_path / "vmcore.gz", gzip.compress(core), "does not fit into memory")


def test_available_memory_is_known() -> None:
    assert 1 << 20 < compressed._available() < compressed.MAX_BYTES
