# SPDX-License-Identifier: LGPL-2.1-or-later
"""Symbols that the kernel itself keeps in memory: its own, and those of its modules."""

from __future__ import annotations

import os
import struct
from bisect import bisect_right
from collections.abc import Sequence
from itertools import islice

from drgn import FaultError, Object, PlatformFlags, Program, ProgramFlags, Symbol, SymbolIndex
from drgn.helpers.linux.kallsyms import load_vmlinux_kallsyms, module_kallsyms
from drgn.helpers.linux.module import for_each_module, module_address_regions

from ..errors import TargetError
from .elf import ET_CORE, PT_LOAD, PT_NOTE
from .vmcoreinfo import read_vmcoreinfo

NAME = "drgn_thp.kallsyms"
MODULES_NAME = "drgn_thp.modules"
MAX_TABLE_BYTES = 64 << 20
MAX_MODULES = 4096
MAX_MODULE_SYMBOLS = 1 << 20


def register_kallsyms(prog: Program, target: str, release: str) -> None:
    """
    Let a Program find the kernel's own symbols.

    :raises TargetError: if they cannot be had
    """
    try:
        index = _load(prog)
    except Exception as error:
        need = f"{target}: Linux {release} needs its vmlinux with debugging symbols, named with -s"
        if "SYMBOL(kallsyms_names)" not in read_vmcoreinfo(prog):
            # f09bddbd8661 ("vmcoreinfo: add kallsyms_num_syms symbol") (in v6.0) and those before it.
            raise TargetError(f"{need}: kernels before 6.0 do not tell where their symbols are") from error
        raise TargetError(f"{need}: its own symbols cannot be read: {' '.join(str(error).split())}") from error

    start, end = (index(prog, name, None, False) for name in ("__per_cpu_start", "__per_cpu_end"))
    # Where per-CPU variables are numbered from 0 on, NULL and small numbers are no pointers to them.
    low = end[0].address if start and end and not start[0].address else 0

    def find(prog: Program, name: str | None, address: int | None, one: bool) -> Sequence[Symbol]:
        return [] if address is not None and address < low else index(prog, name, address, one)

    prog.register_symbol_finder(NAME, find if low else index, enable_index=0)


def _load(prog: Program) -> SymbolIndex:
    tables = _tables(prog)
    if tables is not None:
        try:
            return load_vmlinux_kallsyms(tables)
        except Exception:  # some of it lies elsewhere
            pass
    return load_vmlinux_kallsyms(prog)


def _tables(prog: Program) -> Program | None:
    """
    Return a Program that holds nothing but the kernel's tables of symbols, or None if they are not as expected.

    Every symbol takes several small reads, each of which walks through page tables in the dump. Read at once and
    put where nothing needs to be walked, the same tables load three times as fast.
    """
    if (prog.flags & ProgramFlags.IS_LIVE and prog.flags & ProgramFlags.IS_LOCAL) or prog.platform is None:
        return None  # has /proc/kallsyms
    try:
        lines = read_vmcoreinfo(prog)
        places = [int(lines[line], 16) for line in lines if line.startswith("SYMBOL(kallsyms_")]
        count = prog.read_u32(int(lines["SYMBOL(kallsyms_num_syms)"], 16))
        start, end = min(places), max(places) + 8 * count + 512  # the last is 8 bytes a symbol, or the 512 of tokens
        if end - start > MAX_TABLE_BYTES:
            return None
        data = prog.read(start, end - start)
        tables = Program(prog.platform)
        little = bool(prog.platform.flags & PlatformFlags.IS_LITTLE_ENDIAN)
        tables.set_core_dump(_core("<" if little else ">", prog["VMCOREINFO"].string_(), start, data))
    except Exception:
        return None
    return tables


def _core(order: str, vmcoreinfo: bytes, address: int, data: bytes) -> int:
    """Return a descriptor of an ELF core with one segment."""
    name = b"VMCOREINFO\0\0"
    note = struct.pack(order + "III", 11, len(vmcoreinfo), 0) + name + vmcoreinfo + bytes(-len(vmcoreinfo) % 4)
    first = 64 + 2 * 56
    core = b"".join(
        (
            b"\x7fELF\x02" + (b"\x01" if order == "<" else b"\x02") + b"\x01".ljust(10, b"\0"),
            struct.pack(order + "HHIQQQIHHHHHH", ET_CORE, 0, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0),
            struct.pack(order + "IIQQQQQQ", PT_NOTE, 0, first, 0, 0, len(note), len(note), 4),
            struct.pack(order + "IIQQQQQQ", PT_LOAD, 4, first + len(note), address, 0, len(data), len(data), 0),
            note,
        )
    )
    fd = os.memfd_create("kallsyms", os.MFD_CLOEXEC)
    os.pwrite(fd, core, 0)
    os.pwrite(fd, data, len(core))
    return fd


def register_module_symbols(prog: Program) -> None:
    """
    Let a Program name addresses in modules.

    By address only: a name that a kernel lacks is a sign of its age, and is not to be sought in every module.
    """
    prog.register_symbol_finder(MODULES_NAME, _ModuleSymbols(prog).find, enable_index=-1)


class _ModuleSymbols:
    def __init__(self, prog: Program) -> None:
        self._prog = prog
        self._regions: list[tuple[int, int, Object]] | None = None
        self._starts: list[int] = []
        self._indexes: dict[int, SymbolIndex] = {}

    def find(self, prog: Program, name: str | None, address: int | None, one: bool) -> Sequence[Symbol]:
        if address is None:
            return []
        if self._regions is None:
            self._regions = []  # what follows asks for symbols, too
            self._regions = self._read_regions()
            self._starts = [start for start, _, _ in self._regions]
        i = bisect_right(self._starts, address) - 1
        if i < 0 or address >= self._regions[i][1]:
            return []
        module = self._regions[i][2]
        key = int(module.value_())
        if key not in self._indexes:
            self._indexes[key] = SymbolIndex(module_symbols(module))
        found: Sequence[Symbol] = self._indexes[key](prog, name, address, one)
        return found

    def _read_regions(self) -> list[tuple[int, int, Object]]:
        regions = []
        try:
            for module in islice(for_each_module(self._prog), MAX_MODULES):
                regions += [(start, start + size, module) for start, size in module_address_regions(module) if size]
        except (FaultError, OSError, LookupError, AttributeError):
            pass  # as many as can be read
        return sorted(regions, key=lambda region: region[0])


def module_symbols(module: Object) -> list[Symbol]:
    try:
        if int(module.kallsyms.num_symtab) > MAX_MODULE_SYMBOLS:
            return []
        return module_kallsyms(module)
    except (FaultError, OSError, LookupError, AttributeError, ValueError):
        return []
