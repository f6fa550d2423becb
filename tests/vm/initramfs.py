# SPDX-License-Identifier: LGPL-2.1-or-later
"""Make the file system that the guest boots into."""

from __future__ import annotations

import gzip
import re
import stat
import subprocess
import tempfile
from pathlib import Path

from .kernels import Files
from .scenes import LAB, Scene

# What the workload needs, where the kernel has it as a module. Whatever is missing is taken to be built in; if it is
# not, the workload fails and says so.
MODULES = ("virtio_pci", "virtio_mem", "qemu_fw_cfg", "loop", "crc32c_generic", "ext4")


class Cpio:
    """A cpio archive in the "newc" format."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._inode = 0

    def add(self, name: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)) -> None:
        """Add one member."""
        self._inode += 1
        path = name.encode() + b"\0"
        fields = (self._inode, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(path), 0)
        header = b"070701" + b"".join(b"%08x" % field for field in fields)
        self._parts += [_pad(header + path), _pad(data)]

    def compressed(self) -> bytes:
        """Return the finished archive."""
        self.add("TRAILER!!!", 0)
        return gzip.compress(b"".join(self._parts), compresslevel=1, mtime=0)


def _pad(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)


def module_files(files: Files, wanted: tuple[str, ...] = MODULES) -> list[Path]:
    """Return the modules to load, each after those that it depends on."""
    available = {_module_name(path): path for path in files.modules.rglob("*.ko")}
    ordered: list[Path] = []

    def add(name: str) -> None:
        path = available.get(name)
        if path is None or path in ordered:
            return
        for dependency in _depends(path):
            add(dependency)
        ordered.append(path)

    for name in wanted:
        add(name)
    return ordered


def _module_name(path: Path) -> str:
    return path.stem.replace("-", "_")


def _depends(module: Path) -> list[str]:
    # The packages have no modules.dep: depmod makes it when they are installed.
    match = re.search(rb"\0depends=([^\0]*)\0", module.read_bytes())
    names = match[1].decode() if match else ""
    return [name.replace("-", "_") for name in names.split(",") if name]


def ext4_image() -> bytes:
    """Return a small ext4 file system with files that were never written by the kernel under test."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "root"
        root.mkdir()
        for name in ("mapped", "unmapped", "held"):
            (root / name).write_bytes(b"".join(b"%-4096d" % page for page in range(4)))
        image = Path(scratch) / "image"
        # No journal: its commits would write back pages that are to stay dirty.
        command = ["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-b", "4096", "-d", str(root), str(image), "8M"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return image.read_bytes()


def build(files: Files, init: Path, scene: Scene = LAB) -> bytes:
    """Return the compressed initramfs for a kernel, a program, and what its scene wants besides."""
    archive = Cpio()
    for directory in ("dev", "proc", "sys", "modules"):
        archive.add(directory, stat.S_IFDIR | 0o755)
    # pid 1 gets its standard output from here, before it has mounted anything.
    archive.add("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
    archive.add("init", stat.S_IFREG | 0o755, init.read_bytes())
    archive.add("ext4.img", stat.S_IFREG | 0o600, ext4_image())
    for name, make in scene.files.items():
        archive.add(name, stat.S_IFREG | 0o600, make())
    for number, path in enumerate(module_files(files, (*MODULES, *scene.modules))):
        archive.add(f"modules/{number:02}.ko", stat.S_IFREG | 0o644, path.read_bytes())
    return archive.compressed()
