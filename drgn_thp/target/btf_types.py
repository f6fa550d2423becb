# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Makes drgn's types of BTF, each when it is first asked for.

What drgn asks for by itself (the type of a member) and is damaged raises :class:`UnknownLayout`, too; but drgn before
0.3 makes a plain :class:`Exception` of it, whose message begins with that name.
"""

from __future__ import annotations

from functools import partial

from drgn import (
    AbsenceReason,
    Object,
    PlatformFlags,
    Program,
    Qualifiers,
    Type,
    TypeEnumerator,
    TypeKind,
    TypeMember,
    TypeParameter,
)

from ..errors import UnknownLayout
from .btf import MAX_DEPTH, Btf, Kind, Member
from .btf_layouts import Layouts

# What a type finder is asked for, by the kinds of BTF that answer.
KINDS: dict[TypeKind, tuple[int, ...]] = {
    TypeKind.INT: (Kind.INT,),
    TypeKind.BOOL: (Kind.INT,),
    TypeKind.FLOAT: (Kind.FLOAT,),
    TypeKind.STRUCT: (Kind.STRUCT,),
    TypeKind.UNION: (Kind.UNION,),
    TypeKind.ENUM: (Kind.ENUM, Kind.ENUM64),
    TypeKind.TYPEDEF: (Kind.TYPEDEF,),
}
_QUALIFIERS = {
    Kind.CONST: Qualifiers.CONST,
    Kind.VOLATILE: Qualifiers.VOLATILE,
    Kind.RESTRICT: Qualifiers.RESTRICT,
}
# What GCC takes for an enum; BTF only knows the size.
_ENUM_INTEGERS = {1: "char", 2: "short int", 4: "int", 8: "long int"}
_ENUM_UNSIGNED = {1: "unsigned char", 2: "short unsigned int", 4: "unsigned int", 8: "long unsigned int"}
_SIGNED, _BOOL = 1, 4  # BTF_INT_*


class Types:
    """
    The types of one :class:`Btf` in one program.

    :param base: The kernel's, if these are of a module: types that both share must be the same object
    """

    def __init__(self, prog: Program, btf: Btf, base: Types | None = None) -> None:
        self.prog = prog
        self.btf = btf
        self.base = base
        is_64_bit = prog.platform is None or bool(prog.platform.flags & PlatformFlags.IS_64_BIT)
        self.layouts = Layouts(btf, 8 if is_64_bit else 4)
        self._types: dict[int, Type] = {}
        self._found: dict[tuple[str, frozenset[TypeKind]], Type | None] = {}

    def find(self, name: str, kinds: frozenset[TypeKind]) -> Type | None:
        """
        Return the type of this name and one of these kinds.

        :raises UnknownLayout: if several that differ have this name, as BTF does not say which file each is of
        """
        key = name, kinds
        if key not in self._found:
            wanted = tuple(kind for asked in kinds for kind in KINDS.get(asked, ()))
            types = [self.get(type_id) for type_id in self.btf.find(name, wanted, own=True)]
            types = [type_ for type_ in types if type_.kind in kinds]
            if any(_shape(type_) != _shape(types[0]) for type_ in types[1:]):
                raise UnknownLayout(f"{self.btf.name} has {len(types)} different types named {name}")
            self._found[key] = types[0] if types else None
        return self._found[key]

    def get(self, type_id: int, depth: int = 0) -> Type:
        """Return a type by its number."""
        if self.base is not None and type_id < self.base.btf.end:
            return self.base.get(type_id, depth)
        type_ = self._types.get(type_id)
        if type_ is None:
            if depth > MAX_DEPTH:
                self.btf.damaged(f"type {type_id} is nested too deep")
            try:
                type_ = self._make(type_id, depth + 1)
            except (ValueError, OverflowError, TypeError) as error:
                raise UnknownLayout(f"{self.btf.name}: type {type_id} is no type of C: {error}") from error
            self._types[type_id] = type_
        return type_

    def _make(self, type_id: int, depth: int) -> Type:
        btf, prog = self.btf, self.prog
        kind = btf.kind(type_id)
        if kind == Kind.VOID:
            return prog.void_type()
        if kind in (Kind.STRUCT, Kind.UNION):
            return self._compound(type_id, kind)
        if kind == Kind.PTR:
            return prog.pointer_type(self.get(btf.third(type_id), depth))
        if kind in _QUALIFIERS:
            type_ = self.get(btf.third(type_id), depth)
            return type_.qualified(type_.qualifiers | _QUALIFIERS[Kind(kind)])
        if kind == Kind.TYPE_TAG:
            return self.get(btf.third(type_id), depth)
        if kind == Kind.ARRAY:
            self.layouts.size(type_id)
            array = btf.array(type_id)
            return prog.array_type(self.get(array.type_id, depth), array.length)
        name = btf.type_name(type_id)
        if kind == Kind.TYPEDEF:
            return prog.typedef_type(name, self.get(btf.third(type_id), depth))
        if kind == Kind.INT:
            encoding, size = btf.int_encoding(type_id)[0], self.layouts.size(type_id)
            return (
                prog.bool_type(name, size) if encoding & _BOOL else prog.int_type(name, size, bool(encoding & _SIGNED))
            )
        if kind == Kind.FLOAT:
            return prog.float_type(name, self.layouts.size(type_id))
        if kind in (Kind.ENUM, Kind.ENUM64):
            return self._enum(type_id)
        if kind == Kind.FWD:
            return self._forward(type_id, depth)
        if kind == Kind.FUNC_PROTO:
            return self._function(type_id, depth)
        btf.damaged(f"type {type_id} is used as a type, but is none")

    def _compound(self, type_id: int, kind: int) -> Type:
        size = self.layouts.size(type_id)  # checks the members
        members = self.btf.members(type_id)
        make = self.prog.struct_type if kind == Kind.STRUCT else self.prog.union_type
        last = len(members) - 1 if kind == Kind.STRUCT else -1
        return make(
            self.btf.type_name(type_id) or None,
            size,
            [
                TypeMember(partial(self._member, m, i == last), m.name or None, self.layouts.bit_field(m)[0])
                for i, m in enumerate(members)
            ],
        )

    def _member(self, member: Member, is_last: bool) -> Type | Object:
        flexible = self._flexible_array(member.type_id) if is_last else None
        if flexible is not None:
            return flexible
        type_ = self.get(member.type_id)
        bits = self.layouts.bit_field(member)[1]
        if not bits:
            return type_
        return Object(self.prog, type_, absence_reason=AbsenceReason.OTHER, bit_field_size=bits)

    def _flexible_array(self, type_id: int) -> Type | None:
        """Return ``T []`` for an array of length 0 at the end of a struct; BTF has no other sign of it."""
        qualifiers = Qualifiers.NONE
        while self.btf.kind(type_id) in _QUALIFIERS:  # no loop: the size of this type is known
            qualifiers |= _QUALIFIERS[Kind(self.btf.kind(type_id))]
            type_id = self.btf.third(type_id)
        if self.btf.kind(type_id) != Kind.ARRAY or self.btf.array(type_id).length:
            return None
        return self.prog.array_type(self.get(self.btf.array(type_id).type_id)).qualified(qualifiers)

    def _enum(self, type_id: int) -> Type:
        name, enumerators = self.btf.type_name(type_id) or None, self.btf.enumerators(type_id)
        if not enumerators:
            return self.prog.enum_type(name)  # only declared
        size, signed = self.layouts.size(type_id), any(e.value < 0 for e in enumerators)
        integer = (_ENUM_INTEGERS if signed else _ENUM_UNSIGNED).get(size)
        if integer is None:
            self.btf.damaged(f"enum {name} has {size} bytes")
        compatible = self.prog.int_type(integer, size, signed)
        return self.prog.enum_type(name, compatible, [TypeEnumerator(e.name, e.value) for e in enumerators])

    def _forward(self, type_id: int, depth: int) -> Type:
        """Return the type that a declaration means if there is just one, else an incomplete type."""
        name, is_union = self.btf.type_name(type_id), self.btf.flag(type_id)
        found = self.btf.find(name, (Kind.UNION if is_union else Kind.STRUCT,))
        if len(found) == 1:
            return self.get(found[0], depth)
        return self.prog.union_type(name or None) if is_union else self.prog.struct_type(name or None)

    def _function(self, type_id: int, depth: int) -> Type:
        self.layouts.check_prototype(type_id)
        parameters = self.btf.parameters(type_id)
        variadic = bool(parameters) and parameters[-1] == ("", 0)
        made = [
            TypeParameter(partial(self.get, parameter), name or None)
            for name, parameter in parameters[: len(parameters) - variadic]
        ]
        return self.prog.function_type(self.get(self.btf.third(type_id), depth), made, is_variadic=variadic)


def _shape(type_: Type) -> tuple[object, ...]:
    """Return what two types of one name must have in common to be the same."""
    if type_.kind == TypeKind.TYPEDEF:
        type_ = type_.unaliased()
        if type_.kind == TypeKind.POINTER:
            return (type_.kind,)
    if type_.kind in (TypeKind.STRUCT, TypeKind.UNION):
        return type_.kind, type_.size, tuple((m.name, m.bit_offset) for m in type_.members or ())
    if type_.kind == TypeKind.ENUM:
        return type_.kind, type_.type, tuple(type_.enumerators or ())
    return type_.kind, getattr(type_, "size", None), getattr(type_, "is_signed", None)
