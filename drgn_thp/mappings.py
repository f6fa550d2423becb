# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What a gate must know about an address_space, resolved once per distinct one.

Folios point to address_spaces, of which there may be millions; what matters of them (who migrates their folios, whether
they may be read at all) comes in a few dozen combinations. A folio's ``mapping_kind`` is the number of its combination.
"""

from __future__ import annotations

from typing import Literal

import numpy
from drgn import FaultError, Program

from .errors import UnknownLayout
from .folios import Column
from .layout import Layout, find_type, is_little_endian
from .mapping_kinds import MappingKind, MigrateOp

# By the name of the function without "_folio", "_page" or "page" at its end.
_BY_FUNCTION = {
    "migrate": MigrateOp.PLAIN,
    "filemap_migrate": MigrateOp.PLAIN,
    "iomap_migrate": MigrateOp.PLAIN,
    "btrfs_migrate": MigrateOp.PLAIN,
    "hugetlbfs_migrate": MigrateOp.PLAIN,
    "buffer_migrate": MigrateOp.BUFFER,
    "buffer_migrate_norefs": MigrateOp.BUFFER_NOREFS,
    "btree_migrate": MigrateOp.BTREE,
    "nfs_migrate": MigrateOp.NFS,
    "aio_migrate": MigrateOp.AIO,
    "secretmem_migrate": MigrateOp.SECRETMEM,
    "kvm_gmem_migrate": MigrateOp.GUEST_MEMFD,
}


def _classify(function: str) -> MigrateOp:
    name = function.split(".")[0]
    # buffer_migrate_page_norefs and buffer_migrate_folio_norefs carry the word in the middle.
    for word in ("_folio", "_page"):
        name = name.replace(word, "")
    return _BY_FUNCTION.get(name[:-4] if name.endswith("page") else name, MigrateOp.OTHER)


NULL, ANON, MOVABLE, KSM, UNREADABLE, RELEASED, KSM_ALONE = range(7)
FIRST_KINDS = (
    MappingKind("", MigrateOp.PLAIN),
    MappingKind("anon", MigrateOp.PLAIN),
    MappingKind("movable_ops", MigrateOp.PLAIN),
    MappingKind("ksm", MigrateOp.PLAIN),
    MappingKind("unreadable", MigrateOp.UNKNOWN),
    MappingKind("movable_ops", MigrateOp.PLAIN),  # the mark alone: the driver has let go of the page
    MappingKind("ksm", MigrateOp.PLAIN),  # the mark alone: not in KSM's tree
)
MAX_KINDS = 1 << 16
_SLOTS = 1 << 16
_ALL_ONES = 0xFFFFFFFFFFFFFFFF


def low_kinds(mapping: Column) -> Column:
    """Return the kind of each mapping as far as its low bits say it; 0 for NULL and for pointers to address_spaces."""
    kinds = mapping & numpy.uint64(3)
    kinds[mapping == MOVABLE] = RELEASED
    kinds[mapping == KSM] = KSM_ALONE
    return kinds


class Mappings:
    """The address_spaces of one target."""

    def __init__(self, prog: Program, layout: Layout) -> None:
        self.prog = prog
        self.kinds: list[MappingKind] = list(FIRST_KINDS)
        self.unreadable = 0
        """Address_spaces met that could not be read."""
        self._numbers: dict[tuple[int, bool, int], int] = {}
        # Direct-mapped memo, pointer → kind: however many address_spaces a host has, this stays as small as this.
        self._pointers = numpy.zeros(_SLOTS, numpy.uint64)
        self._slots = numpy.zeros(_SLOTS, numpy.int32)
        space, operations = find_type(prog, "struct address_space"), find_type(prog, "struct address_space_operations")
        if space is None or operations is None or space.size is None:
            raise UnknownLayout("struct address_space not found")
        self._size = space.size
        self._order: Literal["little", "big"] = "little" if is_little_endian(prog) else "big"
        self._a_ops = space.member("a_ops").bit_offset // 8
        self._flags = space.member("flags").bit_offset // 8
        names = ("migrate_folio", "migratepage")  # renamed in v6.0
        migrate = next((name for name in names if operations.has_member(name)), None)
        if migrate is None:
            raise UnknownLayout("struct address_space_operations has no migrate operation")
        self._migrate = operations.member(migrate).bit_offset // 8
        has_writepage = operations.has_member("writepage")
        self._writepage = operations.member("writepage").bit_offset // 8 if has_writepage else None
        # 0003e2a41468 ("mm: Add AS_UNMOVABLE ...") (in v6.8), called AS_INACCESSIBLE since v6.12.
        bit = layout.enumerators.get("AS_INACCESSIBLE", layout.enumerators.get("AS_UNMOVABLE"))
        self._inaccessible = 0 if bit is None else 1 << bit
        self._min_order = layout.enumerators.get("AS_FOLIO_ORDER_MIN")
        self._functions: dict[int, tuple[str, MigrateOp, str, bool]] = {}

    def kinds_of(self, mapping: Column, is_pointer: Column) -> Column:
        """
        Return the kind of each mapping.

        :param mapping: ``struct address_space *`` with the kernel's low bits
        :param is_pointer: Where mapping points to an address_space; elsewhere its low bits say all
        """
        result = low_kinds(mapping).astype(numpy.int32)
        rows = numpy.flatnonzero(is_pointer)
        if len(rows):
            result[rows] = self._lookup(mapping[rows])
        return result

    def _lookup(self, pointers: Column) -> Column:
        slots = ((pointers * numpy.uint64(0x9E3779B97F4A7C15)) >> numpy.uint64(48)).astype(numpy.intp)
        kinds = self._slots[slots]
        misses = numpy.flatnonzero(self._pointers[slots] != pointers)
        if len(misses):
            missing = pointers[misses].tolist()
            found = {pointer: self._resolve(pointer) for pointer in set(missing)}
            kinds[misses] = [found[pointer] for pointer in missing]
            self._pointers[slots[misses]] = pointers[misses]
            self._slots[slots[misses]] = kinds[misses]
        return kinds

    def _resolve(self, pointer: int) -> int:
        try:
            data = self.prog.read(pointer, self._size)
            a_ops = int.from_bytes(data[self._a_ops : self._a_ops + 8], self._order)
            flags = int.from_bytes(data[self._flags : self._flags + 8], self._order)
            name, migrate, function, writepage = self._operations(a_ops)
        except FaultError:
            self.unreadable += 1
            return UNREADABLE
        inaccessible = bool(flags & self._inaccessible)
        min_order = flags >> self._min_order & 0x1F if self._min_order is not None else 0
        key = (a_ops, inaccessible, min_order)
        number = self._numbers.get(key)
        if number is None:
            if len(self.kinds) >= MAX_KINDS:
                return UNREADABLE
            number = len(self.kinds)
            self.kinds.append(MappingKind(name, migrate, function, writepage, inaccessible, min_order))
            self._numbers[key] = number
        return number

    def _operations(self, a_ops: int) -> tuple[str, MigrateOp, str, bool]:
        """
        Return name, migrate operation, its function and whether there is a writepage, of an address_space_operations.

        :raises FaultError: if it cannot be read
        """
        known = self._functions.get(a_ops)
        if known is not None:
            return known
        function = self._pointer(a_ops + self._migrate)
        writepage = self._writepage is not None and self._pointer(a_ops + self._writepage) != 0
        name = self._symbol(a_ops)
        function_name = self._symbol(function) if function else ""
        migrate = _classify(function_name) if function else MigrateOp.NONE
        if len(self._functions) < MAX_KINDS:
            self._functions[a_ops] = (name, migrate, function_name, writepage)
        return name, migrate, function_name, writepage

    def _pointer(self, address: int) -> int:
        # A damaged pointer may lie so high that what it is to point to goes beyond the end of memory.
        return int(self.prog.read_u64(address & _ALL_ONES))

    def _symbol(self, address: int) -> str:
        try:
            return str(self.prog.symbol(address).name)
        except LookupError:
            return hex(address)

    def columns(self, kind: Column) -> dict[str, Column]:
        """Return what gates ask of the address_spaces, as columns by kind."""

        def gather(values: list[int]) -> Column:
            return numpy.array(values)[kind]

        return {
            "migrate_op": gather([k.migrate for k in self.kinds]),
            "has_writepage": gather([k.has_writepage for k in self.kinds]),
            "inaccessible": gather([k.inaccessible for k in self.kinds]),
            "min_order": gather([k.min_order for k in self.kinds]),
        }
