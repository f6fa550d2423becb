# SPDX-License-Identifier: LGPL-2.1-or-later
"""Answers a Program's questions for types, constants, variables and functions from BTF and kallsyms."""

from __future__ import annotations

from collections.abc import Callable

from drgn import FaultError, FindObjectFlags, Object, Program, Type, TypeKind, TypeKindSet, offsetof

from ..errors import UnknownLayout
from .btf import MAX_BYTES, Btf, Enumerator, Kind, Variable
from .btf_types import Types
from .globals import Globals

NAME = "drgn_thp.btf"
GLOBALS_NAME = "drgn_thp.globals"
MAX_MODULES = 4096
# AttributeError: a member is missing; OSError: of a core whose headers are damaged.
_READ_ERRORS = (FaultError, OSError, LookupError, AttributeError, UnknownLayout)
MAX_ALL_MODULES_BYTES = 256 << 20


class Finders:
    """
    The finders of one Program.

    :param note: Called with a line on what of the modules' BTF cannot be had, when that shows
    """

    def __init__(self, prog: Program, btf: Btf, note: Callable[[str], None]) -> None:
        self.kernel = Types(prog, btf)
        self._prog = prog
        self._note = note
        self._modules: list[Types] | None = None
        self._constants: dict[str, tuple[Types, Enumerator] | None] = {}
        self._variables: dict[str, Variable] | None = None

    def register(self) -> None:
        self._prog.register_type_finder(NAME, self.find_type, enable_index=0)
        # Last: what drgn derives itself is better.
        self._prog.register_object_finder(NAME, self.find_object, enable_index=-1)

    def find_type(self, prog: Program, kinds: TypeKindSet, name: str, filename: str | None) -> Type | None:
        if filename:
            return None  # BTF does not know files
        wanted = frozenset(kinds)
        found = self.kernel.find(name, wanted)
        if found is None and wanted & {TypeKind.STRUCT, TypeKind.UNION, TypeKind.ENUM, TypeKind.TYPEDEF}:
            found = next(filter(None, (module.find(name, wanted) for module in self._module_types())), None)
        return found

    def find_object(self, prog: Program, name: str, flags: FindObjectFlags, filename: str | None) -> Object | None:
        if filename:
            return None
        found = None
        if flags & FindObjectFlags.CONSTANT:
            found = self._constant(name)
        if found is None and flags & FindObjectFlags.VARIABLE:
            found = self._per_cpu_variable(name)
        if found is None and flags & FindObjectFlags.FUNCTION:
            found = self._function(name)
        return found

    def _constant(self, name: str) -> Object | None:
        if name not in self._constants:
            self._constants[name] = self._find_constant(name)
        found = self._constants[name]
        if found is None:
            return None
        types, enumerator = found
        return Object(self._prog, types.get(enumerator.type_id), enumerator.value)

    def _find_constant(self, name: str) -> tuple[Types, Enumerator] | None:
        found = self.kernel.btf.find_enumerators(name)
        if not found:
            for module in self._module_types():
                for enumerator in module.btf.find_enumerators(name, own=True):
                    return module, enumerator
            return None
        if len({enumerator.value for enumerator in found}) > 1:
            raise UnknownLayout(f"{self.kernel.btf.name} has {len(found)} enumerators named {name} of different values")
        return self.kernel, found[0]

    def _per_cpu_variable(self, name: str) -> Object | None:
        """
        Return a variable of the kernel's BTF; the per-CPU ones are where their section begins, plus their offset.

        A symbol of the name would not do: there may be a static variable of the same name.
        """
        if self._variables is None:
            self._variables = self.kernel.btf.variables()
        variable = self._variables.get(name)
        if variable is None or "percpu" not in variable.section:
            return None
        start = self._prog.symbol("__per_cpu_start").address
        return Object(self._prog, self.kernel.get(variable.type_id), address=start + variable.offset)

    def _function(self, name: str) -> Object | None:
        found = self.kernel.btf.find(name, (Kind.FUNC,))
        if not found:
            return None
        symbols = self._prog.symbols(name)
        if len({symbol.address for symbol in symbols}) != 1:
            return None
        return Object(self._prog, self.kernel.get(self.kernel.btf.third(found[0])), address=symbols[0].address)

    def misplaced_variables(self) -> tuple[int, int]:
        """
        Return how many per-CPU variables a symbol confirms, and of how many it says that they lie elsewhere.

        Their order differs from build to build, so this tells BTF of another build of even the same sources.
        """
        confirmed = misplaced = 0
        try:
            start = self._prog.symbol("__per_cpu_start").address
        except LookupError:
            return 0, 0
        for name, variable in self.kernel.btf.variables().items():
            symbols = self._prog.symbols(name)
            if len(symbols) == 1 and "percpu" in variable.section:
                confirmed += symbols[0].address == start + variable.offset
                misplaced += symbols[0].address != start + variable.offset
        return confirmed, misplaced

    # The types of modules: read when a name is not among the kernel's.

    def _module_types(self) -> list[Types]:
        if self._modules is None:
            self._modules = []  # the reading below asks for types, too
            try:
                self._modules = self._read_modules()
            except _READ_ERRORS as error:
                self._note(f"types of modules cannot be had: {error}")
        return self._modules

    def _read_modules(self) -> list[Types]:
        prog, kernel = self._prog, self.kernel
        entry = kernel.find("btf_module", frozenset((TypeKind.STRUCT,)))
        if entry is None or not prog.symbols("btf_modules"):
            return []  # CONFIG_DEBUG_INFO_BTF_MODULES is not set
        head = prog.symbol("btf_modules").address
        offset = offsetof(entry, "list")
        result: list[Types] = []
        total, node = 0, prog.read_u64(head)
        for _ in range(MAX_MODULES):
            if node == head:
                return result
            btf = Object(prog, entry, address=node - offset).btf.read_()
            name, address, size = "?", int(btf.data), int(btf.data_size)
            try:
                name = btf.name.string_().decode("utf-8", "backslashreplace")
                total += size
                if size > MAX_BYTES or total > MAX_ALL_MODULES_BYTES:
                    raise UnknownLayout(f"its BTF has {size} bytes")
                module = Btf(prog.read(address, size), kernel.btf, f"BTF of module {name}")
                result.append(Types(prog, module, kernel))
            except _READ_ERRORS as error:
                self._note(f"types of module {name} cannot be had: {error}")
            node = prog.read_u64(node)
        raise UnknownLayout("the list of modules' BTF has no end")


def register_globals(prog: Program) -> None:
    """Let a Program find the variables of the table of globals."""
    table = Globals(prog)

    def find(prog: Program, name: str, flags: FindObjectFlags, filename: str | None) -> Object | None:
        return None if filename or not flags & FindObjectFlags.VARIABLE else table.find(name)

    prog.register_object_finder(GLOBALS_NAME, find, enable_index=-1)
