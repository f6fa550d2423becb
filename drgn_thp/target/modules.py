# SPDX-License-Identifier: LGPL-2.1-or-later
"""Types and static variables of one module, from what the target itself holds if no debugging symbols were named."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice

from drgn import FaultError, Program, Type, TypeKind
from drgn.helpers.linux.module import for_each_module

from ..errors import UnknownLayout
from .btf import MAX_BYTES, Btf
from .finders import Finders
from .kallsyms import module_symbols

MAX_MODULES = 4096
STRUCTS = "drgn_thp.target.modules"
"""Where prog.cache keeps what was made."""
_READ_ERRORS = (FaultError, OSError, LookupError, AttributeError, ValueError)


@dataclass
class Structs:
    """
    What is known of modules' structures.

    :ivar loaded: Where the entries of the list of modules' BTF were when ``finders`` read it
    """

    known: dict[str, Type] = field(default_factory=dict)
    finders: Finders | None = None
    loaded: tuple[int, ...] = ()


def module_struct(prog: Program, name: str) -> Type | None:
    """
    Return a structure that only a module has, or None if nothing describes it.

    DWARF of the kernel alone does not; the module's BTF is in the target's memory all the same, and is read apart, so
    that types of two sources do not mix.
    """
    try:
        return prog.type(f"struct {name}")
    except LookupError:
        pass
    # A Program never lets go of a type that was made for it: who looks twice must not make it twice.
    structs: Structs = prog.cache.setdefault(STRUCTS, Structs())
    if name not in structs.known:
        found = _struct_in_btf(prog, structs, name)
        if found is None:
            return None
        structs.known[name] = found
    return structs.known[name]


def _struct_in_btf(prog: Program, structs: Structs, name: str) -> Type | None:
    try:
        # Reading all BTF takes some tenths of a second: once, unless modules came or went.
        loaded = _loaded(prog)
        if structs.finders is None or structs.loaded != loaded:
            start, stop = prog.symbol("__start_BTF").address, prog.symbol("__stop_BTF").address
            if not 0 < stop - start <= MAX_BYTES:
                return None
            btf = Btf(prog.read(start, stop - start), name="BTF in memory")
            structs.finders = Finders(prog, btf, lambda line: None)
            structs.loaded = loaded
        return structs.finders.find_type(prog, frozenset((TypeKind.STRUCT,)), name, None)
    except (*_READ_ERRORS, UnknownLayout):
        return None


def _loaded(prog: Program) -> tuple[int, ...]:
    """Return the entries of the list of modules' BTF, as far as it can be read."""
    found: list[int] = []
    with suppress(FaultError, LookupError):
        head = prog.symbol("btf_modules").address
        node = prog.read_u64(head)
        while node != head and len(found) < MAX_MODULES:
            found.append(node)
            node = prog.read_u64(node)
    return tuple(found)


def module_variable(prog: Program, module: str, name: str) -> int | None:
    """Return the address of a variable of a module, or of the kernel if it is built in; None if there is none."""
    symbols = prog.symbols(name)
    if symbols:
        return symbols[0].address if len(symbols) == 1 else None
    return module_addresses(prog, module).get(name)


def module_addresses(prog: Program, module: str) -> dict[str, int]:
    """Return the addresses of all that has a name of its own in a module: functions, too. Empty if it is not loaded."""
    found: dict[str, list[int]] = {}
    try:
        for entry in islice(for_each_module(prog), MAX_MODULES):
            if entry.name.string_() == module.encode():
                for symbol in module_symbols(entry):
                    found.setdefault(symbol.name, []).append(symbol.address)
    except _READ_ERRORS:
        pass
    return {name: addresses[0] for name, addresses in found.items() if len(addresses) == 1}
