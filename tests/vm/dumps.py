# SPDX-License-Identifier: LGPL-2.1-or-later
"""Dumps of real kernels, with pages in every state, and what the kernel itself said of these pages."""

from __future__ import annotations

import inspect
import json
import re
import sys
import time
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy
import numpy.typing

from . import initramfs, kernels, workload
from .booted import booted, wait_until_ready
from .cache import cache_dir, drop_superseded, locked, mark_used, new_directory
from .elfcore import ElfCore, build_id
from .guest import Guest, GuestError
from .matrix import Kernel, kernel
from .scenes import LAB, Scene

PAGE_SIZE = 4096
# What the arrays of kpageflags and kpagecount hold for frames that are no RAM.
UNREAD = 0xFFFFFFFFFFFFFFFF
# Part of the key of the cache: change it when the meaning of what is stored changes.
HARNESS_VERSION = 3
# Second half of what the workload writes into pages that are found by content; see lab/scenarios_held.c.
SIGNATURE = "of drgn_thp's lab"

_RANGE = r"^RANGE pfn=(\S+) pages=(\d+) hotplugged=(\d)"
_MARK = r"^MARK scenario=(\S+) pid=(\d+) vaddr=(\S+) index=(\d+) pfn=(\S+) kind=(\S+) held=(\d) note=(.*)$"
_HOLDER = r"^HOLDER number=(\d+) scenario=(\S+) kind=(\S+) pid=(\d+) fd=(\S+) pfn=(\S+) gets=(\S+) pins=(\S+)$"

Column = numpy.typing.NDArray[numpy.uint64]


@dataclass(frozen=True)
class Mark:
    """
    One page that the workload put into a known state.

    :ivar vaddr: Address of the page in process ``pid``; 0 if no process maps it.
    :ivar index: Number of the page in its region: for a large folio, in the folio.
    :ivar slot: Number of the mark in the guest's own table; several marks share one if they were found by content.
    :ivar held: Something outside of mm (a pipe, a socket) has a reference on the *folio* of this page.
    """

    scenario: str
    pid: int
    vaddr: int
    index: int
    pfn: int
    kind: str
    held: bool
    note: str
    slot: int = -1


@dataclass(frozen=True)
class Holding:
    """
    One process that has something which holds a page.

    :ivar number: Of the holder; several processes may have the same one.
    :ivar kind: In the workload's words.
    :ivar pid: 0: no process has it open.
    :ivar fd: One of the descriptors by which the process has it; None if there is none.
    :ivar gets, pins: On this page; None if that is up to the kernel.
    """

    number: int
    scenario: str
    kind: str
    pid: int
    fd: int | None
    pfn: int
    gets: int | None
    pins: int | None


@dataclass(frozen=True)
class Dump:
    """
    A dump of one kernel, and the guest's own word on its pages at that moment.

    :ivar scene: What the guest shows.
    """

    kernel: str
    scene: Scene
    version: str
    release: str
    directory: Path
    vmlinux: Path
    modules: Path

    @property
    def vmcore(self) -> Path:
        """The ELF core."""
        return self.directory / "vmcore"

    @property
    def state(self) -> Path:
        """The machine as it was at that very moment, for :class:`.guest.Guest` to go on from."""
        return self.directory / "state"

    @property
    def initramfs(self) -> Path:
        """What the guest booted from."""
        return self.directory / "initramfs"

    @property
    def vmlinuz(self) -> Path:
        """What the guest booted."""
        return self.vmlinux.parent / "vmlinuz"

    @property
    def symbols(self) -> tuple[Path, ...]:
        """Debug information of the image, if it was asked for, and of those modules that nothing else describes."""
        return (
            *([self.vmlinux] if self.vmlinux.exists() else []),
            *kernels.module_symbols(kernel(self.kernel), self.version),
        )

    @cached_property
    def marks(self) -> list[Mark]:
        """All marked pages."""
        return [Mark(**entry) for entry in self._meta["marks"]]

    @cached_property
    def holdings(self) -> list[Holding]:
        """Who holds which pages, in a scene that says so; nobody in others."""
        serial = (self.directory / "serial.log").read_text()
        lines = re.findall(_HOLDER, serial, re.MULTILINE)
        if lines and f"HOLDERS {len(lines)}" not in serial.splitlines():
            raise GuestError(f"found {len(lines)} holders on the console, which is not what the guest says it printed")
        return [_holding(*line) for line in lines]

    @cached_property
    def lacks(self) -> frozenset[str]:
        """Scenarios that the guest said this kernel cannot show."""
        return frozenset(self._meta["lacks"])

    @cached_property
    def hotplug_pfns(self) -> range:
        """Page frames of node 1, all of them in ZONE_MOVABLE."""
        return range(*self._meta["hotplug_pfns"])

    @cached_property
    def kpageflags(self) -> Column:
        """/proc/kpageflags, by page frame number; :data:`UNREAD` where there is no RAM."""
        return self._kpage("flags")

    @cached_property
    def kpagecount(self) -> Column:
        """/proc/kpagecount, by page frame number; :data:`UNREAD` where there is no RAM."""
        return self._kpage("counts")

    @cached_property
    def _meta(self) -> dict[str, Any]:
        meta: dict[str, Any] = json.loads((self.directory / "marks.json").read_text())
        return meta

    def _kpage(self, name: str) -> Column:
        with numpy.load(self.directory / "kpage.npz") as arrays:
            column: Column = arrays[name]
        return column


def ensure_dump(entry: Kernel, refresh: bool = False, scene: Scene = LAB) -> Dump:
    """
    Return the dump of a kernel, made now unless the cache has it.

    :raises FetchError: if the kernel cannot be had
    :raises GuestError: if the guest did not reach the states that it should
    """
    files = kernels.fetch(entry, refresh)
    directory = dump_directory(files, scene)
    dump = Dump(entry.name, scene, files.version, files.release, directory, files.vmlinux, files.modules)
    if not directory.exists():
        with locked(directory):
            _ensure(files, dump)
        drop_superseded(directory, f"{files.name}-{scene.name}")
    mark_used(directory)
    return dump


def _ensure(files: kernels.Files, dump: Dump) -> None:
    if not dump.directory.exists():
        with new_directory(dump.directory) as scratch:
            _make(files, replace(dump, directory=scratch))


def dump_directory(files: kernels.Files, scene: Scene = LAB) -> Path:
    """Return where the cache keeps the dump of a kernel, as this version of the lab would make it."""
    return cache_dir() / "dumps" / f"{files.name}-{scene.name}-{cache_key(files, scene.name, scene)}"


def cache_key(files: kernels.Files, program: str, scene: Scene = LAB) -> str:
    """Return what a dump depends on: the kernel, the program that runs in the guest, and how the guest is set up."""
    here = Path(__file__).parent
    makers = {Path(inspect.getfile(make)) for make in scene.files.values()}
    parts = [*workload.sources(program), here / "guest.py", here / "initramfs.py", *makers]
    machine = [getattr(scene, part.name) for part in fields(scene) if part.name != "files"] + sorted(scene.files)
    return f"{files.version}-{workload.digest(parts, repr(machine))}-{HARNESS_VERSION}"


def check_and_dump(files: kernels.Files, guest: Guest, directory: Path) -> tuple[ElfCore, str]:
    """
    Dump a guest whose workload is ready to ``vmcore`` and ``serial.log``, and return both.

    :raises GuestError: if the workload failed, or the dump is not of the kernel whose debug information we have
    """
    serial = guest.serial()
    (directory / "serial.log").write_text(serial)
    failures = re.findall(r"^FAIL .*", serial, re.MULTILINE)
    if failures:
        stacks = re.findall(r"^STACK .*\n(?:\[.*\n)*", serial, re.MULTILINE)
        raise GuestError(f"kernel {files.name}: the workload failed:\n" + "\n".join([*failures, *stacks]))
    guest.dump(directory / "vmcore")
    core = ElfCore(directory / "vmcore")
    _check_build(core, files)
    return core, serial


def _make(files: kernels.Files, dump: Dump) -> None:
    image = initramfs.build(files, workload.build(dump.scene.name), dump.scene)
    dump.initramfs.write_bytes(image)
    began = time.monotonic()
    with booted(lambda: start(dump), partial(_serve_until_ready, dump.scene)) as guest:
        ready = time.monotonic()
        core, serial = check_and_dump(files, guest, dump.directory)
        guest.save(dump.state)
    print(f"{files.name} {dump.scene.name}: ready after {ready - began:.1f} s", file=sys.stderr, flush=True)
    _store(core, serial, dump.directory)


def _serve_until_ready(scene: Scene, guest: Guest) -> None:
    for command, arguments in scene.before_ready:
        guest.wait_for(f"ASK {command}")
        guest.qmp(command, **arguments)
    wait_until_ready(guest)


def start(dump: Dump, state: Path | None = None) -> Guest:
    """Return the guest of a dump: booting, or as it was when its state was saved."""
    scene = dump.scene
    return Guest(
        dump.vmlinuz,
        dump.initramfs.read_bytes(),
        scene.memory_mib,
        scene.hotplug_mib,
        agent=True,
        arguments=scene.arguments,
        devices=scene.devices,
        state=state,
        plugged_mib=scene.plugged_mib,
        cpus=scene.cpus,
    )


def _check_build(core: ElfCore, files: kernels.Files) -> None:
    """Debug information of another build decodes to garbage that looks plausible."""
    note = core.vmcoreinfo()
    if note.get("OSRELEASE") != files.release:
        raise GuestError(
            f"booted {note.get('OSRELEASE')}, but the modules and debug information are of {files.release}"
        )
    if files.vmlinux.exists() and "BUILD-ID" in note and note["BUILD-ID"] != build_id(files.vmlinux):
        raise GuestError(f"kernel {files.name}: vmlinux is not of the build that was booted")


def _store(core: ElfCore, serial: str, directory: Path) -> None:
    """Turn what the guest printed, and what it left in its memory, into files."""
    ranges = [tuple(int(word, 0) for word in match) for match in re.findall(_RANGE, serial, re.MULTILINE)]
    runs = [(int(pfn, 0), int(pages)) for pfn, pages in re.findall(r"^RUN pfn=(\S+) pages=(\d+)", serial, re.MULTILINE)]
    memory = b"".join(core.read(pfn * PAGE_SIZE, pages * PAGE_SIZE) for pfn, pages in runs)
    words = numpy.frombuffer(memory, dtype=numpy.uint64)
    total = sum(pages for _, pages, _ in ranges)
    end = max(pfn + pages for pfn, pages, _ in ranges)
    columns = {}
    for name, values in (("flags", words[:total]), ("counts", words[total : 2 * total])):
        column = numpy.full(end, UNREAD, dtype=numpy.uint64)
        position = 0
        for pfn, pages, _ in ranges:
            column[pfn : pfn + pages] = values[position : position + pages]
            position += pages
        columns[name] = column
    numpy.savez_compressed(directory / "kpage.npz", flags=columns["flags"], counts=columns["counts"])
    hotplugged = [(pfn, pfn + pages) for pfn, pages, is_hotplugged in ranges if is_hotplugged]
    meta = {
        "marks": [asdict(mark) for mark in _marks(core, serial, columns["flags"])],
        "lacks": sorted(re.findall(r"^LACKS scenario=(\S+)", serial, re.MULTILINE)),
        "hotplug_pfns": [min(start for start, _ in hotplugged), max(stop for _, stop in hotplugged)],
    }
    (directory / "marks.json").write_text(json.dumps(meta, indent=1) + "\n")


def _holding(number: str, scenario: str, kind: str, pid: str, *words: str) -> Holding:
    fd, pfn, gets, pins = (None if word.startswith("-") else int(word, 0) for word in words)
    assert pfn is not None
    return Holding(int(number), scenario, kind, int(pid), fd, pfn, gets, pins)


def _marks(core: ElfCore, serial: str, flags: Column) -> list[Mark]:
    marks: list[Mark] = []
    lines = re.findall(_MARK, serial, re.MULTILINE)
    if f"MARKS {len(lines)}" not in serial.splitlines():
        raise GuestError(f"found {len(lines)} marks on the console, which is not what the guest says it printed")
    for slot, (scenario, pid, vaddr, index, pfn, kind, held, note) in enumerate(lines):
        mark = Mark(scenario, int(pid), int(vaddr, 0), int(index), int(pfn, 0), kind, held == "1", note, slot)
        if note.startswith("sig="):
            marks += [replace(mark, pfn=found, index=i) for i, found in enumerate(_pages_with(core, note[4:], flags))]
        else:
            marks.append(mark)
    return marks


def _pages_with(core: ElfCore, name: str, flags: Column) -> list[int]:
    """
    Return the frames of the kernel's own pages in which the workload left its signature.

    The part of a socket buffer that is not in pages lies in slab objects, which are left out.
    """
    signature = f"{name:<32}{SIGNATURE:>32}".encode()
    slab = 1 << 7
    pfns = {address // PAGE_SIZE for address in core.find(signature)}
    found = sorted(pfn for pfn in pfns if not int(flags[pfn]) & slab)
    if not found:
        raise GuestError(f"no page holds the signature of {name!r}")
    return found
