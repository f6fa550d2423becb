# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Reads BTF (Documentation/bpf/btf.rst): the compact type information that kernels carry in their own memory.

Knows no drgn; ``btf_types.py`` makes drgn's types of this. One pass over the data finds where each of its hundred
thousand types begins; everything else is looked up when it is asked for. Nothing is believed before its bounds are
checked, since a dump may hold anything: what does not fit raises :class:`UnknownLayout`.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Any, NamedTuple, NoReturn

import numpy

from ..errors import UnknownLayout

MAX_BYTES = 64 << 20
MAX_DEPTH = 48  # of typedefs, qualifiers, pointers, arrays and members by value around each other
_HEADER = "HBBIIIII"
_MAGIC = 0xEB9F


class Kind(IntEnum):
    """BTF_KIND_*."""

    VOID = 0
    INT = 1
    PTR = 2
    ARRAY = 3
    STRUCT = 4
    UNION = 5
    ENUM = 6
    FWD = 7
    TYPEDEF = 8
    VOLATILE = 9
    CONST = 10
    RESTRICT = 11
    FUNC = 12
    FUNC_PROTO = 13
    VAR = 14
    DATASEC = 15
    FLOAT = 16
    DECL_TAG = 17
    TYPE_TAG = 18
    ENUM64 = 19


# Words after the three that every type has: once, and per element.
_ONCE = {Kind.INT: 1, Kind.ARRAY: 3, Kind.VAR: 1, Kind.DECL_TAG: 1}
_EACH = {Kind.STRUCT: 3, Kind.UNION: 3, Kind.ENUM: 2, Kind.FUNC_PROTO: 2, Kind.DATASEC: 3, Kind.ENUM64: 3}
# Kinds whose third word is the number of another type.
_REFERENCES = (
    Kind.PTR,
    Kind.TYPEDEF,
    Kind.VOLATILE,
    Kind.CONST,
    Kind.RESTRICT,
    Kind.FUNC,
    Kind.FUNC_PROTO,
    Kind.VAR,
    Kind.DECL_TAG,
    Kind.TYPE_TAG,
)
# Kinds that change no layout.
TRANSPARENT = frozenset((Kind.TYPEDEF, Kind.VOLATILE, Kind.CONST, Kind.RESTRICT, Kind.TYPE_TAG))


class Member(NamedTuple):
    """A member of a struct or union; ``bits`` is 0 unless it is a bit-field."""

    name: str
    type_id: int
    bit_offset: int
    bits: int


class Array(NamedTuple):
    """An array; BTF flattens those of several dimensions."""

    type_id: int
    length: int


class Enumerator(NamedTuple):
    """An enumerator, and the type that it belongs to."""

    name: str
    value: int
    type_id: int


class Variable(NamedTuple):
    """A variable, and its offset in the section that holds it."""

    type_id: int
    section: str
    offset: int


class Btf:
    """
    The types of a kernel, or with a base, of one of its modules.

    :param data: What lies between __start_BTF and __stop_BTF, or in a module's struct btf
    :param base: The kernel's, whose numbers a module's types continue
    :param name: For messages
    :raises UnknownLayout: if the data is damaged or of an unknown version
    """

    def __init__(self, data: bytes, base: Btf | None = None, name: str = "BTF") -> None:
        self.base = base
        self.name = name
        self.end: int  # the number after the last type's
        self.end_of_strings: int
        if len(data) > MAX_BYTES:
            self.damaged(f"{len(data)} bytes are too many")
        order = next((o for o in "<>" if data[:2] == struct.pack(o + "H", _MAGIC)), None)
        if order is None:
            self.damaged("it does not begin with the magic number of BTF")
        if len(data) < struct.calcsize(order + _HEADER):
            self.damaged("its header is cut off")
        _, version, _, header, type_off, type_len, str_off, str_len = struct.unpack_from(order + _HEADER, data)
        if version != 1:
            self.damaged(f"version {version} is unknown")
        end = len(data) - header
        if header % 4 or header < struct.calcsize(order + _HEADER) or end < 0:
            self.damaged(f"its header has {header} bytes")
        if type_off % 4 or type_len % 4 or type_off + type_len > end or str_off + str_len > end:
            self.damaged("its sections reach beyond its end")
        self._strings = data[header + str_off : header + str_off + str_len]
        # A module's strings continue the kernel's and so need not begin with the empty one.
        if (base is None and self._strings[:1] != b"\0") or self._strings[-1:] not in (b"\0", b""):
            self.damaged("its strings are not terminated")
        self._words: numpy.ndarray[Any, numpy.dtype[numpy.uint32]] = numpy.frombuffer(
            data, order + "u4", type_len // 4, header + type_off
        ).astype("u4")
        self._first_string = base.end_of_strings if base else 0
        self.end_of_strings = self._first_string + len(self._strings)
        self._first = base.end if base else 1
        self._index(*self._widths(data, order, header))
        self._offsets: dict[bytes, list[int]] | None = None
        self._enumerators: tuple[Any, Any] | None = None

    def damaged(self, why: str) -> NoReturn:
        raise UnknownLayout(f"{self.name} is damaged or not understood: {why}")

    def _widths(self, data: bytes, order: str, header: int) -> tuple[list[int], list[int]]:
        """Return how many words a type of each kind takes; -1 for kinds of which that is unknown."""
        once, each = [-1] * 128, [0] * 128
        # 222edc843c15 ("btf: Add BTF kind layout encoding to UAPI") (in v7.1): how to skip kinds that are unknown here.
        if header >= 32:
            offset, length = struct.unpack_from(order + "II", data, 24)
            if header + offset + length > len(data):
                self.damaged("its kind layouts reach beyond its end")
            for kind in range(min(length // 4, 128)):
                info, element = data[header + offset + 4 * kind : header + offset + 4 * kind + 2]
                if info % 4 == 0 and element % 4 == 0:
                    once[kind], each[kind] = 3 + info // 4, element // 4
        for known in Kind:
            once[known], each[known] = 3 + _ONCE.get(known, 0), _EACH.get(known, 0)
        once[Kind.VOID] = -1  # has no record
        return once, each

    def _index(self, once: list[int], each: list[int]) -> None:
        words = self._words.data
        position, end = 0, len(words)
        at: list[int] = []
        try:
            while position < end:
                at.append(position)
                # Kind and length have 7 and 24 bits since f7a6b9eaff3e ("bpf: Extend BTF UAPI vlen, kinds to use unused
                # bits") (in v7.2); the further bits are 0 before.
                info = words[position + 1]
                kind = info >> 24 & 0x7F
                if once[kind] < 0:
                    self.damaged(f"type {self._first + len(at) - 1} is of the unknown kind {kind}")
                position += once[kind] + each[kind] * (info & 0xFFFFFF)
        except IndexError:
            position = end + 1
        if position != end:
            self.damaged("its last type is cut off")
        self._at = numpy.array(at, dtype=numpy.int64)
        self.end = self._first + len(at)
        self._name_offsets = self._words[self._at]
        self._infos = self._words[self._at + 1]
        self._thirds = self._words[self._at + 2]
        self._kinds = (self._infos >> 24 & 0x7F).astype(numpy.uint8)
        if len(at) and int(self._name_offsets.max()) >= max(self.end_of_strings, 1):
            self.damaged("the name of a type lies beyond its strings")
        references = self._thirds[numpy.isin(self._kinds, _REFERENCES)]
        if len(references) and int(references.max()) >= self.end:
            self.damaged("a type refers to one beyond its types")

    # Single types, by number.

    def _own(self, type_id: int) -> tuple[Btf, int]:
        """Return who holds a type, and its position there."""
        owner: Btf | None = self
        while owner is not None and type_id < owner._first:
            owner = owner.base
        if owner is None or type_id >= owner.end:
            self.damaged(f"there is no type {type_id}")
        return owner, type_id - owner._first

    def kind(self, type_id: int) -> int:
        if type_id == 0:
            return Kind.VOID
        owner, i = self._own(type_id)
        return int(owner._kinds[i])

    def flag(self, type_id: int) -> bool:
        owner, i = self._own(type_id)
        return bool(int(owner._infos[i]) >> 31)

    def third(self, type_id: int) -> int:
        """Return the word that is the size of a type, or the type that it refers to."""
        owner, i = self._own(type_id)
        return int(owner._thirds[i])

    def type_name(self, type_id: int) -> str:
        """Return the name of a type; empty if it has none."""
        owner, i = self._own(type_id)
        return owner.string(int(owner._name_offsets[i]))

    def string(self, offset: int) -> str:
        owner = self
        while owner.base is not None and offset < owner._first_string:
            owner = owner.base
        offset -= owner._first_string
        end = owner._strings.find(b"\0", offset) if 0 <= offset < len(owner._strings) else -1
        if end < 0:
            if offset == 0:
                return ""
            self.damaged("a name lies beyond its strings")
        return owner._strings[offset:end].decode("utf-8", "backslashreplace")

    def _extra(self, type_id: int, per_element: int) -> list[list[int]]:
        """Return the words after the first three, in rows."""
        owner, i = self._own(type_id)
        start, count = int(owner._at[i]) + 3, (int(owner._infos[i]) & 0xFFFFFF) if per_element else 1
        width = per_element or _ONCE[Kind(int(owner._kinds[i]))]
        rows: list[list[int]] = owner._words[start : start + count * width].reshape(count, width).tolist()
        return rows

    def int_encoding(self, type_id: int) -> tuple[int, int, int]:
        """Return the flags, the bit offset and the number of bits of an INT."""
        ((word,),) = self._extra(type_id, 0)
        return word >> 24 & 0xF, word >> 16 & 0xFF, word & 0xFF

    def array(self, type_id: int) -> Array:
        ((element, _, length),) = self._extra(type_id, 0)
        return Array(element, length)

    def members(self, type_id: int) -> list[Member]:
        wide = self.flag(type_id)
        return [
            Member(self.string(name), member, *((offset & 0xFFFFFF, offset >> 24) if wide else (offset, 0)))
            for name, member, offset in self._extra(type_id, 3)
        ]

    def parameters(self, type_id: int) -> list[tuple[str, int]]:
        """Return the parameters of a function type; a last one of type 0 stands for "..."."""
        return [(self.string(name), parameter) for name, parameter in self._extra(type_id, 2)]

    def enumerators(self, type_id: int) -> list[Enumerator]:
        bits = 32
        if self.kind(type_id) == Kind.ENUM64:
            bits = 64
            values = [(name, low | high << 32) for name, low, high in self._extra(type_id, 3)]
        else:
            values = [(name, value) for name, value in self._extra(type_id, 2)]
        if self.enum_is_signed(type_id):
            values = [(name, value - (value >> (bits - 1) << bits)) for name, value in values]
        return [Enumerator(self.string(name), value, type_id) for name, value in values]

    def enum_is_signed(self, type_id: int) -> bool:
        """
        Return whether the values of an enum are signed.

        A flag says so since pahole 1.24; before, no enum had it and values were understood as signed.
        """
        owner, i = self._own(type_id)
        return bool(int(owner._infos[i]) >> 31) or not owner._knows_signs()

    def _knows_signs(self) -> bool:
        enums = (self._kinds == Kind.ENUM) | (self._kinds == Kind.ENUM64)
        if bool((self._infos[enums] >> 31).any()):
            return True
        return self.base is not None and self.base._knows_signs()

    # By name.

    def find(self, name: str, kinds: tuple[int, ...], own: bool = False) -> list[int]:
        """
        Return the numbers of all types of this name and one of these kinds.

        :param own: Leave the base out
        """
        found = self.base.find(name, kinds) if self.base and not own else []
        for offset in self._offsets_of(name):
            rows = numpy.flatnonzero(self._name_offsets == offset).tolist()
            found += [self._first + row for row in rows if self._kinds[row] in kinds]
        return found

    def _offsets_of(self, name: str) -> list[int]:
        """Return the offsets of all strings that are this name, the base's among them."""
        if not name:
            return []
        if self._offsets is None:
            self._offsets = self._index_strings()
        offsets = self.base._offsets_of(name) if self.base else []
        return offsets + self._offsets.get(name.encode("utf-8", "surrogateescape"), [])

    def _index_strings(self) -> dict[bytes, list[int]]:
        strings = self._strings.split(b"\0")[:-1]
        lengths = numpy.fromiter(map(len, strings), numpy.int64, len(strings)) + 1
        starts = (self._first_string + numpy.cumsum(lengths) - lengths).tolist()
        index = dict(zip(strings, ([start] for start in starts)))
        if len(index) < len(strings):  # not so in what pahole writes
            for string, start in zip(strings, starts):
                if start not in index[string]:
                    index[string].append(start)
        return index

    def find_enumerators(self, name: str, own: bool = False) -> list[Enumerator]:
        """Return all enumerators of this name."""
        found = self.base.find_enumerators(name) if self.base and not own else []
        offsets = self._offsets_of(name)
        if offsets:
            names, owners = self._all_enumerators()
            for owner in sorted(set(owners[numpy.isin(names, offsets)].tolist())):
                found += [enumerator for enumerator in self.enumerators(owner) if enumerator.name == name]
        return found

    def _all_enumerators(self) -> tuple[Any, Any]:
        """Return the name of every enumerator, and the number of the type that it is in."""
        if self._enumerators is None:
            names, owners = [], []
            for kind in (Kind.ENUM, Kind.ENUM64):
                rows = numpy.flatnonzero(self._kinds == kind)
                counts = (self._infos[rows] & 0xFFFFFF).astype(numpy.int64)
                starts = numpy.repeat(self._at[rows] + 3 - _EACH[kind] * (numpy.cumsum(counts) - counts), counts)
                names.append(self._words[starts + _EACH[kind] * numpy.arange(len(starts))])
                owners.append(numpy.repeat(rows + self._first, counts))
            self._enumerators = numpy.concatenate(names), numpy.concatenate(owners)
        return self._enumerators

    def variables(self) -> dict[str, Variable]:
        """Return the variables whose place in a section is given. Those of the kernel are all per CPU."""
        result: dict[str, Variable] = {}
        for row in numpy.flatnonzero(self._kinds == Kind.DATASEC).tolist():
            section = self.type_name(self._first + row)
            for variable, offset, _ in self._extra(self._first + row, 3):
                if self.kind(variable) != Kind.VAR:
                    self.damaged(f"section {section} holds what is no variable")
                result[self.type_name(variable)] = Variable(self.third(variable), section, offset)
        return result

    def resolve(self, type_id: int) -> int:
        """Return the type that is left without typedefs and qualifiers."""
        for _ in range(MAX_DEPTH):
            if self.kind(type_id) not in TRANSPARENT:
                return type_id
            type_id = self.third(type_id)
        self.damaged(f"type {type_id} is nested too deep")
