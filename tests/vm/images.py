# SPDX-License-Identifier: LGPL-2.1-or-later
"""File systems that are small enough to be written by hand, and some that their own tools make."""

from __future__ import annotations

import os
import struct
import subprocess
import tempfile
from pathlib import Path

PAGE_SIZE = 4096


def romfs() -> bytes:
    """Return a romfs with one file of four pages: nothing on it can be written."""
    directory, regular, executable = 1, 2, 8
    data = b"".join(b"%-4096d" % page for page in range(4))
    # Volume, root and file: each has a header of 16 bytes and a name of 16.
    root = struct.pack(">4L16s", directory | executable, 64, 0, 0, b".")
    file = struct.pack(">4L16s", regular, 0, len(data), 0, b"file")
    rest = b"lab".ljust(16, b"\0") + root + file + data
    image = b"-rom1fs-" + struct.pack(">LL", 16 + len(rest), 0) + rest
    # The words of the first half kilobyte add up to nothing.
    checksum = -sum(struct.unpack(">128L", image[:512])) & 0xFFFFFFFF
    image = image[:12] + struct.pack(">L", checksum) + image[16:]
    return image + bytes(-len(image) % PAGE_SIZE)


def vfat() -> bytes:
    """Return an empty FAT12 of 1 MiB, in clusters of one page."""
    sectors, fat_sectors = 2048, 2
    boot = struct.pack(
        "<3s8sHBHBHHBHHHLL", b"\xeb\x3c\x90", b"lab", 512, 8, 1, 1, 512, sectors, 0xF8, fat_sectors, 32, 2, 0, 0
    )
    fat = b"\xf8\xff\xff"
    return (boot.ljust(512, b"\0") + fat).ljust(sectors * 512, b"\0")


def ext4_16k() -> bytes:
    """Return an empty ext4 of 8 MiB, in blocks of four pages."""
    return _made_by("mke2fs", "-q", "-F", "-t", "ext4", "-O", "^has_journal", "-b", "16384", mib=8)


def ext4_journal() -> bytes:
    """Return an empty ext4 of 8 MiB with a journal, in blocks of a quarter of a page."""
    return _made_by("mke2fs", "-q", "-F", "-t", "ext4", "-b", "1024", "-J", "size=1", mib=8)


def btrfs() -> bytes:
    """Return an empty btrfs, which cannot be much smaller than this."""
    return _made_by("mkfs.btrfs", "-q", "--mixed", "-m", "single", "-d", "single", "-n", "4096", "-s", "4096", mib=24)


def xfs() -> bytes:
    """Return an empty xfs, without what 5.10 calls experimental. So small ones are made for xfs' own tests only."""
    features = ("-m", "reflink=0,bigtime=0,inobtcount=0", "-i", "nrext64=0")
    return _made_by("mkfs.xfs", "-q", *features, mib=16, TEST_DIR="-", TEST_DEV="-", QA_CHECK_FS="-")


def _made_by(*command: str, mib: int, **environment: str) -> bytes:
    with tempfile.TemporaryDirectory() as scratch:
        image = Path(scratch) / "image"
        with image.open("wb") as file:
            file.truncate(mib << 20)
        subprocess.run(
            [*command, str(image)],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **environment},
        )
        return image.read_bytes()
