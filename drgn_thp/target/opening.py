# SPDX-License-Identifier: LGPL-2.1-or-later
"""From what the user named to a Program whose memory, types and symbols answer."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import drgn
from drgn import Platform, Program, ProgramFlags

from ..errors import DrgnThpError, TargetError
from . import kdump
from .compressed import compression, unpack
from .debuginfo import captured_log, load_dwarf
from .elf import ET_CORE, read_elf
from .kallsyms import register_module_symbols
from .kernelbtf import check_types, load_btf
from .permission import why_not
from .qmp import open_guest
from .spec import TargetSpec
from .vmcoreinfo import read_vmcoreinfo

SLIM_NOTE = "drgn_thp"
"""Name of the ELF note by which a slim core is known; it says in words what the core holds."""
MAX_SLIM_NOTE = 1000


@dataclass(frozen=True)
class Target:
    """
    An opened target.

    :ivar types_source: Where its types come from, for reports: "DWARF of /path/vmlinux", "BTF in the dump".
    :ivar has_unwinder: Whether stack traces are to be trusted. Without DWARF, drgn's are wrong without saying so.
    :ivar notes: What is missing or odd, a line each. More may follow while the target is used.
    :ivar slim: What a slim core says of itself; None if it is none. What is not in one was left out, not damaged.
    """

    prog: Program
    release: str
    types_source: str
    has_unwinder: bool
    notes: list[str] = field(default_factory=list)
    slim: str | None = None


@dataclass
class Memory:
    """
    A Program that reads the memory of a target, but has no types yet.

    :ivar name: What to call it in messages.
    """

    prog: Program
    name: str
    notes: list[str] = field(default_factory=list)
    slim: str | None = None


def open_target(spec: TargetSpec) -> Target:
    """
    Open a core, the running kernel or a QEMU guest, and find what describes its types.

    That is, in this order: the vmlinux that the user names; one that drgn finds; BTF, of which the kernel itself
    carries one since 6.0 or so.

    :raises TargetError: if it cannot be opened, is not a Linux kernel, nothing that fits describes it,
        or what is asked is contradictory
    """
    return open_types(open_memory(spec), spec)


def open_memory(spec: TargetSpec) -> Memory:
    """
    Open a core, the running kernel or a QEMU guest, but look for no types.

    :raises TargetError: if it cannot be opened, is not a Linux kernel, or what is asked is contradictory
    """
    if (spec.core is not None) + spec.kernel + (spec.qemu is not None) != 1:
        raise TargetError("name one target: -c CORE, -k for the running kernel, or --qemu ADDRESS")
    if spec.btf is not None and (spec.no_btf or spec.symbols):
        raise TargetError("--btf excludes --no-btf and -s: types of two sources do not mix")
    name = spec.core or spec.qemu or "/proc/kcore"
    memory = Memory(Program(_platform(spec), vmcoreinfo=_vmcoreinfo(spec)), name)
    with captured_log() as log:
        _open_memory(memory, spec)
        memory.notes += log
        _check_linux(memory.prog, spec, name)
    if memory.slim is not None:
        memory.notes.append(f"slim core: {memory.slim}")
    return memory


def open_types(memory: Memory, spec: TargetSpec) -> Target:
    """
    Give memory its types, in the order that :func:`open_target` says.

    :raises TargetError: if nothing that fits describes it
    """
    prog, notes = memory.prog, memory.notes
    with captured_log():
        release = prog["UTS_RELEASE"].string_().decode("ascii", "replace")
        if not release.isprintable() or "\N{REPLACEMENT CHARACTER}" in release:
            raise TargetError(f"{memory.name}: its VMCOREINFO is damaged: the release of the kernel is {release!r}")
        try:
            source, has_unwinder = _load_types(prog, spec, memory.name, release, notes)
        except TargetError as error:
            # A core that is cut off may lack what the types are found by.
            raise TargetError("; ".join([str(error), *notes])) from error
    register_module_symbols(prog)
    return Target(prog, release, source, has_unwinder, notes, memory.slim)


def _load_types(prog: Program, spec: TargetSpec, name: str, release: str, notes: list[str]) -> tuple[str, bool]:
    path = load_dwarf(prog, spec, name, notes) if spec.btf is None else None
    if path is None and spec.no_btf:
        raise TargetError(f"{name}: no vmlinux of Linux {release} with debugging symbols found: name it with -s")
    if path is None:
        return load_btf(prog, spec, name, release, notes), False
    source = f"DWARF of {path}"
    if "BUILD-ID" not in read_vmcoreinfo(prog):
        check_types(prog, source, name)
    return source, True


def _platform(spec: TargetSpec) -> Platform | None:
    if spec.architecture is None:
        return None
    try:
        return Platform(drgn.Architecture[spec.architecture.upper()])
    except KeyError:
        raise TargetError(f"--architecture {spec.architecture}: drgn knows no such architecture") from None


def _vmcoreinfo(spec: TargetSpec) -> bytes | None:
    if spec.vmcoreinfo is None:
        return None
    try:
        with open(spec.vmcoreinfo, "rb") as file:
            return file.read()
    except OSError as error:
        raise TargetError(f"{spec.vmcoreinfo}: {error.strerror or error}") from error


def _open_memory(memory: Memory, spec: TargetSpec) -> None:
    name = memory.name
    try:
        if spec.core is not None:
            _open_core(memory, spec.core)
        elif spec.qemu is not None:
            open_guest(memory.prog, spec.qemu)
        else:
            memory.prog.set_kernel()
    except DrgnThpError:
        raise
    except OSError as error:
        hint = why_not(error) if spec.kernel else ""
        raise TargetError(f"{name}: {error.strerror or error}{hint and ': '}{hint}") from error
    except Exception as error:  # drgn raises bare ones for what libelf and libkdumpfile dislike
        raise TargetError(f"{name}: {' '.join(str(error).split())}") from error


def _open_core(memory: Memory, path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        kind = compression(fd)
        if kind is not None:
            compressed, fd = fd, unpack(fd, kind, path)
            os.close(compressed)
        elf = read_elf(fd)
        if elf is not None:
            if elf.type != ET_CORE:
                raise TargetError(f"{path}: an ELF file, but no core dump")
            if elf.has_impossible_segments():
                raise TargetError(f"{path}: its program headers are damaged")
            _note_missing(memory, path, elf.missing_bytes())
            slim = elf.note(SLIM_NOTE)
            memory.slim = None if slim is None else slim[:MAX_SLIM_NOTE].decode("utf-8", "backslashreplace")
        else:
            try:
                _note_missing(memory, path, kdump.missing_bytes(fd))
            except kdump.DamagedKdump:
                raise TargetError(f"{path} is cut off or damaged: its table of pages is not all there") from None
        memory.prog.set_core_dump(path if kind is None else os.dup(fd))  # the Program closes what it is given
    finally:
        os.close(fd)


def _note_missing(memory: Memory, path: str, missing: int) -> None:
    if missing:
        memory.notes.append(f"{path} is cut off: its last {missing} bytes are missing, and what lay there is unknown")


def _check_linux(prog: Program, spec: TargetSpec, name: str) -> None:
    if prog.flags & ProgramFlags.IS_LINUX_KERNEL:
        return
    if spec.qemu is not None:
        raise TargetError(
            f"{name}: no Linux kernel recognised in this guest: QEMU needs -device vmcoreinfo, and the guest"
            " CONFIG_FW_CFG_SYSFS; or name a file with its VMCOREINFO with --vmcoreinfo"
        )
    raise TargetError(f"{name}: no core of a Linux kernel, or one without VMCOREINFO (which --vmcoreinfo may give)")
