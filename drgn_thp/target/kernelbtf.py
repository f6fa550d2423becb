# SPDX-License-Identifier: LGPL-2.1-or-later
"""Types from BTF: by drgn where it can read it, else by our own reader."""

from __future__ import annotations

import os

from drgn import FaultError, Program, ProgramFlags

from ..errors import DrgnThpError, TargetError, UnknownLayout
from .btf import MAX_BYTES, Btf
from .elf import read_elf
from .finders import Finders, register_globals
from .kallsyms import register_kallsyms
from .spec import TargetSpec
from .vmcoreinfo import disagreements

LIVE_BTF = "/sys/kernel/btf/vmlinux"


def load_btf(prog: Program, spec: TargetSpec, target: str, release: str, notes: list[str]) -> str:
    """
    Give a Program its symbols by kallsyms, its types by BTF, and the variables that we know.

    :return: Where the types are from
    :raises TargetError: if there is no BTF, or not of this kernel
    """
    given = None if spec.btf is None else _read_file(spec.btf)
    register_kallsyms(prog, target, release)
    if given is None and _load_by_drgn(prog):
        source = "BTF in the kernel's memory, read by drgn"
    else:
        data, source = (given, f"BTF of {spec.btf}") if given is not None else _find(prog, spec, target, release)
        try:
            finders = Finders(prog, Btf(data, name=source), notes.append)
            confirmed, misplaced = finders.misplaced_variables()
        except UnknownLayout as error:
            raise TargetError(f"{target}: {error}: name its vmlinux with -s") from error
        # A few may: kallsyms leaves out some symbols, so that another of the name seems to be the only one.
        if misplaced > confirmed // 10:
            raise TargetError(f"{source} is of another kernel than {target}: per-CPU variables lie elsewhere")
        finders.register()
    register_globals(prog)
    check_types(prog, source, target)
    notes.append("types are from BTF: no stack traces, and no variables of modules")
    return source


def check_types(prog: Program, source: str, target: str) -> None:
    """
    Compare types with VMCOREINFO.

    :raises TargetError: if they disagree
    """
    try:
        agree, wrong = disagreements(prog)
    except DrgnThpError as error:
        agree, wrong = 0, [str(error)]
    if wrong or not agree:
        why = wrong[0] if wrong else "nothing in VMCOREINFO confirms it"
        raise TargetError(f"{source} does not fit {target}: {why}")


def _find(prog: Program, spec: TargetSpec, target: str, release: str) -> tuple[bytes, str]:
    if spec.kernel and os.path.exists(LIVE_BTF):
        return _read_file(LIVE_BTF), f"BTF of the running kernel ({LIVE_BTF})"
    where = "BTF in the guest's memory" if spec.qemu is not None else "BTF in the dump"
    need = f"{target}: Linux {release} needs its vmlinux with debugging symbols, named with -s"
    try:
        start, stop = prog.symbol("__start_BTF").address, prog.symbol("__stop_BTF").address
    except LookupError:
        raise TargetError(f"{need}: it was built without BTF (CONFIG_DEBUG_INFO_BTF)") from None
    if not 0 < stop - start <= MAX_BYTES:
        raise TargetError(f"{need}: its BTF would have {stop - start} bytes")
    try:
        return prog.read(start, stop - start), where
    except FaultError as error:
        raise TargetError(f"{need}: the {where} cannot be read: {error}") from error


def _read_file(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            elf = read_elf(file.fileno())
            data = elf.section(".BTF") if elf is not None else file.read(MAX_BYTES + 1)
    except OSError as error:
        raise TargetError(f"{path}: {error.strerror or error}") from error
    if data is None:
        raise TargetError(f"{path}: an ELF file without a section .BTF")
    return data


def _load_by_drgn(prog: Program) -> bool:
    """
    Let drgn read the BTF in the kernel's memory; not in any release yet (pull request 625).

    What comes of it is checked like our own; where it does not work, ours does.
    """
    if not prog.flags & ProgramFlags.IS_LINUX_KERNEL:
        return False
    types, objects = prog.enabled_type_finders(), prog.enabled_object_finders()
    try:
        prog.main_module().load_btf()
        prog.type("struct page")
    except Exception:
        prog.set_enabled_type_finders(types)
        prog.set_enabled_object_finders(objects)
        return False
    return True
