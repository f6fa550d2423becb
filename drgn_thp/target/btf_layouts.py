# SPDX-License-Identifier: LGPL-2.1-or-later
"""Sizes of types in BTF, and whether types can be what they say: drgn follows them without asking."""

from __future__ import annotations

from .btf import MAX_DEPTH, TRANSPARENT, Btf, Kind, Member

MAX_TYPE_BYTES = 16 << 20  # the largest of real kernels have 4 MiB


class Layouts:
    """What has been checked of one :class:`Btf`."""

    def __init__(self, btf: Btf, pointer_bytes: int) -> None:
        self.btf = btf
        self._pointer_bytes = pointer_bytes
        self._sizes: dict[int, int] = {}
        self._prototypes: set[int] = set()

    def size(self, type_id: int, depth: int = 0) -> int:
        """
        Return the size of a type in bytes, having checked all that it holds by value.

        :raises UnknownLayout: if it has none, contains itself, or its members do not fit into it
        """
        type_id = self.btf.resolve(type_id)
        known = self._sizes.get(type_id)
        if known is not None:
            return known
        if depth > MAX_DEPTH:
            self.btf.damaged(f"type {type_id} contains itself, or is nested too deep")
        kind = self.btf.kind(type_id)
        if kind == Kind.PTR:
            size = self._pointer_bytes
        elif kind == Kind.ARRAY:
            array = self.btf.array(type_id)
            size = array.length * self.size(array.type_id, depth + 1)
        elif kind in (Kind.STRUCT, Kind.UNION):
            size = self.btf.third(type_id)
            self._check_members(type_id, kind, size, depth)
        elif kind in (Kind.INT, Kind.FLOAT, Kind.ENUM, Kind.ENUM64):
            size = self.btf.third(type_id)
            if size not in (1, 2, 4, 8, 16) and not (kind == Kind.FLOAT and size == 12):
                self.btf.damaged(f"type {type_id} ({self.btf.type_name(type_id)}) has {size} bytes")
        else:
            self.btf.damaged(f"type {type_id} has no size, but is used by value")
        if size > MAX_TYPE_BYTES:
            self.btf.damaged(f"type {type_id} has {size} bytes")
        self._sizes[type_id] = size
        return size

    def check_prototype(self, type_id: int, depth: int = 0) -> None:
        """
        Check that a function type is not made of itself, so that it can be written down.

        :raises UnknownLayout: if it is; with a name (a struct, a typedef) in between it may
        """
        if type_id in self._prototypes:
            return
        if depth > MAX_DEPTH:
            self.btf.damaged(f"type {type_id} is made of itself, or is nested too deep")
        kind = self.btf.kind(type_id)
        if kind == Kind.FUNC_PROTO:
            for _, parameter in self.btf.parameters(type_id):
                self.check_prototype(parameter, depth + 1)
        if kind == Kind.ARRAY:
            self.check_prototype(self.btf.array(type_id).type_id, depth + 1)
        elif kind in (Kind.FUNC_PROTO, Kind.PTR) or (kind in TRANSPARENT and kind != Kind.TYPEDEF):
            self.check_prototype(self.btf.third(type_id), depth + 1)
        self._prototypes.add(type_id)

    def _check_members(self, type_id: int, kind: int, size: int, depth: int) -> None:
        """Check that members fit in, and in a struct do not overlap, by which most damage shows."""
        spans = []
        for member in self.btf.members(type_id):
            member_bits = 8 * self.size(member.type_id, depth + 1)
            bits = self.bit_field(member)[1]
            if bits and self.btf.kind(self.btf.resolve(member.type_id)) not in (Kind.INT, Kind.ENUM, Kind.ENUM64):
                self.btf.damaged(f"{self.btf.type_name(type_id)}.{member.name} is a bit-field, but no integer")
            if bits > member_bits:
                self.btf.damaged(f"{self.btf.type_name(type_id)}.{member.name} has more bits than its type")
            spans.append((member.bit_offset, member.bit_offset + (bits or member_bits)))
        spans.sort()
        if any(end > 8 * size for _, end in spans):
            self.btf.damaged(f"a member of {self.btf.type_name(type_id) or f'type {type_id}'} reaches beyond its end")
        if kind == Kind.STRUCT and any(start < end for (_, end), (start, _) in zip(spans, spans[1:])):
            self.btf.damaged(f"members of {self.btf.type_name(type_id) or f'type {type_id}'} overlap")

    def bit_field(self, member: Member) -> tuple[int, int]:
        """Return the bit offset of a member, and the bits if it is a bit-field, else 0."""
        type_id = self.btf.resolve(member.type_id)
        if self.btf.kind(type_id) != Kind.INT:
            return member.bit_offset, member.bits
        # Without the flag of the struct, an INT narrower than its bytes makes the bit-field.
        _, offset, bits = self.btf.int_encoding(type_id)
        if not member.bits and (offset or bits != 8 * self.btf.third(type_id)):
            return member.bit_offset + offset, bits
        return member.bit_offset, member.bits
