# SPDX-License-Identifier: LGPL-2.1-or-later
"""VMCOREINFO: the lines by which a kernel itself describes a few of its types, and so a check on what others say."""

from __future__ import annotations

import re
from collections.abc import Iterator

from drgn import FaultError, Program, Type, TypeKind, sizeof

from ..errors import DrgnThpError

_LINE = re.compile(r"(SIZE|OFFSET|LENGTH|NUMBER)\(([\w.]+)\)=(-?\w+)")


def read_vmcoreinfo(prog: Program) -> dict[str, str]:
    """Return the lines of VMCOREINFO; empty if the target has none."""
    try:
        text = prog["VMCOREINFO"].string_().decode("ascii", "backslashreplace")
    except (LookupError, FaultError):
        return {}
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def disagreements(prog: Program) -> tuple[int, list[str]]:
    """
    Compare the types of a program with what its VMCOREINFO says of them.

    :return: How many lines agree; and those that do not, in words. Lines on what is not known count as neither.
    """
    agree, wrong = 0, []
    for what, name, said in _statements(prog):
        try:
            found = _look_up(prog, what, name)
        except LookupError:
            continue
        except DrgnThpError as error:
            wrong.append(str(error))
            continue
        if found == said:
            agree += 1
        else:
            wrong.append(f"{what}({name}) is {said} in VMCOREINFO, but {found} by these types")
    return agree, wrong


def _statements(prog: Program) -> Iterator[tuple[str, str, int]]:
    for key, value in read_vmcoreinfo(prog).items():
        match = _LINE.fullmatch(f"{key}={value}")
        if match is not None:
            try:
                yield match[1], match[2], int(match[3], 0)
            except ValueError:
                continue


def _look_up(prog: Program, what: str, name: str) -> int:
    """
    Return what a line of VMCOREINFO states.

    :raises LookupError: if that is not known, or the line is not about a type
    """
    if what == "NUMBER":
        constant = prog.constant(name)
        if constant.type_.kind != TypeKind.ENUM:
            raise LookupError(name)  # drgn has it from VMCOREINFO
        return int(constant.value_())
    type_name, _, member = name.partition(".")
    type_ = _type(prog, type_name)
    if what == "SIZE" and not member:
        return _size(type_)
    if what not in ("OFFSET", "LENGTH") or not member:
        raise LookupError(name)
    found, offset = type_, 0
    for part in member.split("."):
        while found.kind == TypeKind.TYPEDEF:
            found = found.type
        if found.kind not in (TypeKind.STRUCT, TypeKind.UNION):
            raise LookupError(name)
        position = found.member(part)
        offset += position.bit_offset // 8
        found = position.type
    if what == "OFFSET":
        return offset
    if found.kind != TypeKind.ARRAY or found.length is None:
        raise LookupError(name)
    return int(found.length)


def _type(prog: Program, name: str) -> Type:
    """VMCOREINFO leaves out whether a name is a struct's, a union's or a typedef's."""
    for prefix in ("struct ", "union "):
        try:
            return prog.type(prefix + name)
        except LookupError:
            continue
    return prog.type(name)


def _size(type_: Type) -> int:
    try:
        return int(sizeof(type_))
    except TypeError as error:  # only declared
        raise LookupError(str(error)) from error
