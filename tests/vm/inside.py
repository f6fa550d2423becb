# SPDX-License-Identifier: LGPL-2.1-or-later
"""A disk with a Python, drgn and this package, and a guest that runs them on its own kernel."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.vm import initramfs, kernels, workload
from tests.vm.booted import booted
from tests.vm.guest import Guest, GuestError
from tests.vm.matrix import kernel
from tests.vm.scenes import Scene

PACKAGES = ("drgn", "_drgn", "_drgn_util", "numpy", "tabulate", "tqdm", "drgn_thp")
NEIGHBOURS = (".libs",)  # of wheels
# What is compiled already stays: compiling takes long under emulation.
LEFT_OUT = ("test", "tests", "site-packages", "idlelib", "ensurepip", "tkinter", "lib2to3")
SECONDS = 600.0

# Runs in the guest. As root; as nobody; and as root without the right to read memory.
SCRIPT = """
import ctypes, glob, os, sys
sys.path.insert(0, "/packages")
from drgn_thp.cli import main

numbers = sorted(int(path.rsplit("memory", 1)[1]) for path in glob.glob("/sys/devices/system/node/node1/memory[0-9]*"))
blocks = f"{numbers[0]}-{numbers[-1]}"
base = ["report", "-k", "--block", blocks, "--path", "all", "--format", "ndjson"]
base += ["-s", "/vmlinux", "--main-symbols"] if os.path.exists("/vmlinux") else ["--no-default-symbols"]

def as_other(name, change, arguments, main=main):
    print("BEGIN", name, flush=True)
    pid = os.fork()
    if pid == 0:
        os.dup2(1, 2)
        change()
        try:
            status = main(arguments)
        except BaseException as error:
            print("RAISED", repr(error))
            status = 99
        sys.stdout.flush()
        os._exit(status)
    print("END", name, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)

def without_rawio():
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)()
    libc.capget(header, data)
    for i in (0, 1, 2):
        data[i] &= ~(1 << 17)
    libc.capset(header, data)

def mode(_):
    words = open("/sys/kernel/security/lockdown").read() if os.path.exists("/sys/kernel/security/lockdown") else "[]"
    print(words.split("[")[1].split("]")[0])
    return 0

as_other("mode", lambda: None, base, mode)
as_other("nobody", lambda: os.setuid(65534), base)
as_other("without-rawio", without_rawio, base)
as_other("root", lambda: None, base)
"""


@dataclass(frozen=True)
class Run:
    """What one user was told: the lines, and the exit status."""

    lines: list[str]
    status: int

    @property
    def records(self) -> list[dict[str, Any]]:
        """The records of a report."""
        return [json.loads(line) for line in self.lines if line.startswith("{")]


@dataclass(frozen=True)
class Machine:
    """
    What a guest needs to run a script in Python.

    :ivar devices: For the emulator's command line: the disk
    :ivar arguments: For the kernel's
    """

    devices: tuple[str, ...]
    arguments: tuple[str, ...]
    memory_mib: int


@contextmanager
def machine(name: str, script: str, modules: tuple[Path, ...] = ()) -> Iterator[Machine]:
    """
    Make a disk for a kernel, which is there until the end of the block.

    :param modules: What the script can import besides the package
    """
    python = Path(sys.base_prefix) / "bin" / f"python{sysconfig.get_python_version()}"
    # BTF is not enough for 5.10: it is not in its memory, but in a file that it shows.
    vmlinux = kernels.fetch(kernel(name)).vmlinux if name == "5.10" else None
    with tempfile.TemporaryDirectory(prefix="inside.") as scratch:
        disk = make_disk(Path(scratch), python, vmlinux, script, modules)
        drive = f"file={disk},format=raw,if=none,id=python,readonly=on"
        devices = ("-drive", drive, "-device", "virtio-blk-pci,drive=python")
        yield Machine(devices, (f"inside_python={python}",), 3072 if vmlinux else 1024)


@contextmanager
def inside(name: str, arguments: tuple[str, ...] = ()) -> Iterator[tuple[Guest, dict[str, Run]]]:
    """
    Boot a kernel and let it look at itself. Yield the guest, which is at rest, and what each user was told in it.

    :param arguments: For the kernel
    :raises GuestError: if it does not come that far
    """
    files = kernels.fetch(kernel(name))
    with machine(name, SCRIPT) as wanted:
        scene = Scene("inside", modules=("virtio_blk",), memory_mib=wanted.memory_mib)
        image = initramfs.build(files, workload.build(scene.name), scene)
        arguments = (*wanted.arguments, *arguments)
        with booted(
            lambda: Guest(
                files.vmlinuz, image, scene.memory_mib, scene.hotplug_mib, arguments=arguments, devices=wanted.devices
            ),
            lambda guest: guest.wait_for("READY", SECONDS),
        ) as guest:
            yield guest, runs(guest.serial())


def runs(serial: str) -> dict[str, Run]:
    """Return what the script printed."""
    found = re.findall(r"^BEGIN (\S+)\n(.*?)^END \1 (\d+)$", serial, re.MULTILINE | re.DOTALL)
    if not found:
        raise GuestError(f"the script in the guest did not run:\n{serial[-3000:]}")
    return {name: Run(text.splitlines(), int(status)) for name, text, status in found}


def make_disk(scratch: Path, python: Path, vmlinux: Path | None, script: str, modules: tuple[Path, ...]) -> Path:
    """Make the image of an ext4 file system with all that a script needs, each library where it is here."""
    root = scratch / "root"
    for directory in ("proc", "sys", "dev", "packages"):
        (root / directory).mkdir(parents=True)
    (root / "inside.py").write_text(script)
    ignore = shutil.ignore_patterns(*LEFT_OUT, "config-*", "*.a", "*.pyi")
    library = Path(sysconfig.get_path("stdlib", vars={"installed_base": sys.base_prefix}))
    shutil.copytree(library, _under(root, library), ignore=ignore, symlinks=True)
    for package in PACKAGES:
        _copy_package(package, root / "packages")
    for module in modules:
        shutil.copy(module, root / "packages")
    _under(root, python).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(python, _under(root, python))
    _copy_libraries(root, [python, *root.rglob("*.so"), *root.rglob("*.so.*")])
    if vmlinux is not None:
        shutil.copy(vmlinux, root / "vmlinux")
    image = scratch / "disk"
    size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
    command = ["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-d", str(root), str(image)]
    subprocess.run([*command, f"{size * 5 // 4 // 1048576 + 64}M"], check=True, stdout=subprocess.DEVNULL)
    shutil.rmtree(root)
    return image


def _under(root: Path, path: Path) -> Path:
    return root / path.relative_to("/")


def _copy_package(name: str, target: Path) -> None:
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    origin = Path(spec.origin)
    if origin.name != "__init__.py":
        shutil.copy(origin, target)
        return
    ignore = shutil.ignore_patterns("tests", "*.pyi", "*.a", "data")
    shutil.copytree(origin.parent, target / name, ignore=ignore)
    for neighbour in NEIGHBOURS:
        libraries = origin.parent.parent / f"{name}{neighbour}"
        if libraries.is_dir():
            shutil.copytree(libraries, target / libraries.name)


def _copy_libraries(root: Path, binaries: list[Path]) -> None:
    """Copy the libraries of this machine that binaries want."""
    output = subprocess.run(["ldd", *map(str, binaries)], check=False, capture_output=True, text=True).stdout
    for word in set(re.findall(r"(/\S+\.so[.\d]*)\b", output)):
        library = Path(word)
        if library.is_relative_to(root) or not library.is_file():
            continue
        place = _under(root, library)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, place)
