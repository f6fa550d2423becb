# SPDX-License-Identifier: LGPL-2.1-or-later
"""From what the user named to a Program whose memory, types and symbols answer."""

from __future__ import annotations

from dataclasses import dataclass, field

from drgn import MissingDebugInfoError, Program, ProgramFlags

from ..errors import TargetError
from .spec import TargetSpec


@dataclass(frozen=True)
class Target:
    """
    An opened target.

    :ivar types_source: Where its types come from, for reports: "DWARF of /path/vmlinux", "BTF in the dump".
    :ivar notes: What is missing or odd, a line each.
    :ivar has_unwinder: Whether stack traces are to be trusted. Without DWARF, drgn's are wrong without saying so.
    """

    prog: Program
    release: str
    types_source: str
    has_unwinder: bool
    notes: list[str] = field(default_factory=list)


def open_target(spec: TargetSpec) -> Target:
    """
    Open a core, the running kernel or a QEMU guest, and find what describes its types.

    :raises TargetError: if it cannot be opened, is not a Linux kernel, or nothing describes it
    """
    prog = _open_memory(spec)
    if not prog.flags & ProgramFlags.IS_LINUX_KERNEL:
        raise TargetError(f"{_name(spec)}: not a Linux kernel")
    release = prog["UTS_RELEASE"].string_().decode("ascii", "backslashreplace")
    try:
        prog.load_debug_info(spec.symbols, main=spec.default_symbols != "none")
    except MissingDebugInfoError as error:
        raise TargetError(f"{_name(spec)}: {' '.join(str(error).split())}") from error
    except OSError as error:
        raise TargetError(str(error)) from error
    path = prog.main_module().debug_file_path
    if path is None:
        raise TargetError(f"{_name(spec)}: Linux {release} needs its vmlinux with debugging symbols: name it with -s")
    return Target(prog, release, f"DWARF of {path}", True)


def _name(spec: TargetSpec) -> str:
    return spec.core or spec.qemu or "/proc/kcore"


def _open_memory(spec: TargetSpec) -> Program:
    if (spec.core is not None) + spec.kernel + (spec.qemu is not None) != 1:
        raise TargetError("name one target: -c CORE, -k for the running kernel, or --qemu ADDRESS")
    prog = Program()
    try:
        if spec.core is not None:
            prog.set_core_dump(spec.core)
        elif spec.qemu is not None:
            prog.set_qemu_qmp(spec.qemu)
        else:
            prog.set_kernel()
    except Exception as error:
        raise TargetError(f"{_name(spec)}: {' '.join(str(error).split())}") from error
    return prog
