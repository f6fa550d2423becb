# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Some members of a kernel structure, read all at once.

A drgn object for each member of thousands of structures costs a hundred times what it takes to read their bytes.
"""

from __future__ import annotations

from typing import Literal

from drgn import FaultError, PrimitiveType, Program, Type, TypeKind

from .errors import UnknownLayout
from .layout import find_type, is_little_endian

U64 = 0xFFFFFFFFFFFFFFFF
_SIGNED = (PrimitiveType.C_CHAR, PrimitiveType.C_SIGNED_CHAR, PrimitiveType.C_SHORT, PrimitiveType.C_INT)


class Struct:
    """
    Where members of one structure lie.

    :param names: Names that the structure has in some kernel, newest first
    :param members: Names of members as in C (``vm_start``, ``rb_root.rb_node``), or several names, newest first, of
        which the first that is there is taken
    :param optional: The same, of members that a kernel may lack; they read as 0
    :raises UnknownLayout: if the structure, or one of its members, is not there
    """

    def __init__(
        self,
        prog: Program,
        names: str | tuple[str, ...],
        members: tuple[str | tuple[str, ...], ...],
        optional: tuple[str | tuple[str, ...], ...] = (),
    ) -> None:
        names = (names,) if isinstance(names, str) else names
        found = next(filter(None, (find_type(prog, name) for name in names)), None)
        if found is None or found.size is None:
            raise UnknownLayout(f"{names[0]} not found")
        self.prog = prog
        self.type = found
        self.size = found.size
        self._order: Literal["little", "big"] = "little" if is_little_endian(prog) else "big"
        self._places: dict[str, tuple[int, int, bool]] = {}
        self._absent: list[str] = []
        for member in (*members, *optional):
            paths = (member,) if isinstance(member, str) else member
            place = next(filter(None, (_place(found, path) for path in paths)), None)
            if place is not None:
                self._places[paths[0]] = place
            elif member in optional:
                self._absent.append(paths[0])
            else:
                raise UnknownLayout(f"{names[0]} has no member {paths[0]}")
        self._start = min(offset for offset, _, _ in self._places.values())
        self._length = max(offset + width for offset, width, _ in self._places.values()) - self._start

    def has(self, name: str) -> bool:
        """Return whether this kernel has a member."""
        return name in self._places

    def offset(self, name: str) -> int:
        """Return where a member begins."""
        return self._places[name][0]

    def width(self, name: str) -> int:
        """Return the size of a member."""
        return self._places[name][1]

    def read(self, address: int) -> dict[str, int]:
        """
        Return the members of the structure at an address; one that is no number as the number that its bytes make.

        :raises FaultError: if they cannot be read
        """
        return self.decode(self.read_span(address))

    def read_span(self, address: int) -> bytes:
        """
        Return the bytes from the first of the members to the last, for :meth:`decode` and :meth:`bytes_of`.

        :raises FaultError: if they cannot be read
        """
        return read(self.prog, address + self._start, self._length)

    def decode(self, span: bytes) -> dict[str, int]:
        """Return the members of what :meth:`read_span` returned."""
        start, order = self._start, self._order
        values = {
            name: int.from_bytes(span[offset - start : offset - start + width], order, signed=signed)
            for name, (offset, width, signed) in self._places.items()
        }
        values.update(dict.fromkeys(self._absent, 0))
        return values

    def bytes_of(self, span: bytes, name: str) -> bytes:
        """Return the bytes of a member of what :meth:`read_span` returned."""
        offset, width, _ = self._places[name]
        return span[offset - self._start : offset - self._start + width]


def read(prog: Program, address: int, size: int) -> bytes:
    """
    Return bytes at a kernel address that may be any number.

    :raises FaultError: if they cannot be read
    """
    if not 0 <= address <= U64 - size:
        raise FaultError("no address", address & U64)
    data: bytes = prog.read(address, size)
    return data


def read_word(prog: Program, address: int) -> int:
    """
    Return the unsigned long at a kernel address that may be any number.

    :raises FaultError: if it cannot be read
    """
    if not 0 <= address <= U64 - 8:
        raise FaultError("no address", address & U64)
    word: int = prog.read_word(address)
    return word


def _place(type_: Type, path: str) -> tuple[int, int, bool] | None:
    """Return offset, size and whether it is signed of a member named as in C, or None where there is none."""
    offset = 0
    for name in path.split("."):
        type_ = _unaliased(type_)
        if type_.kind not in (TypeKind.STRUCT, TypeKind.UNION) or not type_.has_member(name):
            return None
        member = type_.member(name)
        if member.bit_field_size is not None:
            return None
        offset += member.bit_offset // 8
        type_ = member.type
    size = _size(type_)
    return None if size is None else (offset, size, _unaliased(type_).primitive in _SIGNED)


def _unaliased(type_: Type) -> Type:
    while type_.kind == TypeKind.TYPEDEF:
        type_ = type_.type
    return type_


def _size(type_: Type) -> int | None:
    type_ = _unaliased(type_)
    if type_.kind == TypeKind.ARRAY:
        element = _size(type_.type)
        return None if type_.length is None or element is None else type_.length * element
    size: int | None = type_.size
    return size
