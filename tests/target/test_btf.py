# SPDX-License-Identifier: LGPL-2.1-or-later
"""The BTF reader on blobs written by hand: right answers, and errors rather than wrong ones."""

from __future__ import annotations

import random
import struct
from importlib.metadata import version

import pytest
from drgn import Architecture, Platform, Program, Type, TypeKind

from drgn_thp.errors import UnknownLayout
from drgn_thp.target.btf import Btf, Kind
from drgn_thp.target.btf_types import KINDS, Types

from .mutants import mutate
from .writer import BtfWriter, small_kernel

MUTANTS = 2000


def types_of(writer: BtfWriter, base: Types | None = None) -> Types:
    prog = Program(Platform(Architecture.X86_64)) if base is None else base.prog
    return Types(prog, Btf(writer.data(), base.btf if base else None), base)


def find(types: Types, name: str, kind: TypeKind = TypeKind.STRUCT) -> Type:
    found = types.find(name, frozenset((kind,)))
    assert found is not None, name
    return found


@pytest.fixture(scope="module")
def kernel() -> Types:
    return types_of(small_kernel())


def test_struct_with_unions(kernel: Types) -> None:
    page = find(kernel, "page")
    assert page.size == 64
    offsets = {
        name: page.member(name).bit_offset // 8 for name in ("flags", "lru", "mapping", "compound_head", "page_type")
    }
    assert offsets == {"flags": 0, "lru": 8, "mapping": 24, "compound_head": 8, "page_type": 48}
    assert page.member("_refcount").type.name == "atomic_t"
    assert page.member("mapping").type.type.tag == "address_space"


def test_struct_that_points_to_itself(kernel: Types) -> None:
    list_head = find(kernel, "list_head")
    assert list_head.member("next").type.type.tag == "list_head"


def test_declaration_without_definition_is_incomplete(kernel: Types) -> None:
    assert not find(kernel, "page").member("mapping").type.type.is_complete()


def test_bit_fields(kernel: Types) -> None:
    packed = find(kernel, "packed")
    assert [(m.name, m.bit_offset, m.bit_field_size) for m in packed.members or ()] == [
        ("state", 0, 3),
        ("frozen", 3, 1),
        ("cpu", 32, None),
    ]


def test_bit_field_by_narrow_integer() -> None:
    """Before the flag for bit-fields, an INT of fewer bits than its bytes made one."""
    b = BtfWriter()
    b.struct("old", 4, [("low", b.int_("unsigned int", 4, bits=5), 0), ("high", b.int_("unsigned int", 4, 0, 3, 7), 8)])
    members = find(types_of(b), "old").members or ()
    assert [(m.name, m.bit_offset, m.bit_field_size) for m in members] == [("low", 0, 5), ("high", 11, 7)]


def test_array_at_the_end_is_flexible(kernel: Types) -> None:
    assert find(kernel, "mask").member("bits").type.length is None


def test_array(kernel: Types) -> None:
    assert find(kernel, "zone").member("free_area").type.length == 11


def test_enumerators(kernel: Types) -> None:
    def value(name: str) -> list[int]:
        return [enumerator.value for enumerator in kernel.btf.find_enumerators(name)]

    assert value("PG_lru") == [5]
    assert value("ERROR_BELOW_ZERO") == [-22]
    assert value("WIDE_HIGH") == [1 << 40]
    assert value("PG_nonesuch") == []
    # A name of something else is no enumerator.
    assert value("page") == []


def test_signs_of_enums_before_there_was_a_flag() -> None:
    """Old pahole has no flag for signed enums; then nothing has it, and the value must not become 2³² - 22."""
    b = BtfWriter()
    b.enum("error", [("ERROR", -22)])
    assert [e.value for e in Btf(b.data()).find_enumerators("ERROR")] == [-22]
    b.enum("other", [("OTHER", -1)], signed=True)
    assert [e.value for e in Btf(b.data()).find_enumerators("ERROR")] == [2**32 - 22]


def test_enum_declared_only() -> None:
    b = BtfWriter()
    b.enum("declared", [])
    assert not find(types_of(b), "declared", TypeKind.ENUM).is_complete()


def test_functions(kernel: Types) -> None:
    read = find(kernel, "address_space_operations").member("read").type.type
    assert read.kind == TypeKind.FUNCTION
    assert read.is_variadic
    assert [p.name for p in read.parameters] == ["page", "buf"]
    assert kernel.btf.find("vmemmap_populate", (Kind.FUNC,))


def test_qualifiers(kernel: Types) -> None:
    assert "const" in find(kernel, "zone").member("name").type.type_name()
    assert "volatile" in find(kernel, "zone").member("spanned_pages").type.type_name()


def test_variables(kernel: Types) -> None:
    variables = kernel.btf.variables()
    assert {name: (v.section, v.offset) for name, v in variables.items()} == {
        "runqueues": (".data..percpu", 0x100),
        "cpu_fbatches": (".data..percpu", 0x240),
    }


def test_other_byte_order() -> None:
    little, big = Btf(small_kernel("<").data()), Btf(small_kernel(">").data())
    for number in range(1, little.end):
        assert little.kind(number) == big.kind(number)
        assert little.type_name(number) == big.type_name(number)
    (page,) = big.find("page", (Kind.STRUCT,))
    assert big.members(page) == little.members(page)


def test_types_of_modules_continue_those_of_the_kernel(kernel: Types) -> None:
    writer = small_kernel()
    (list_head,) = kernel.btf.find("list_head", (Kind.STRUCT,))
    b = BtfWriter(base=writer)
    device = b.struct("virtio_mem", 32, [("device_list", list_head, 0), ("flags", b.int_("u64", 8), 128)])
    module = types_of(b, kernel)
    assert module.btf.find("virtio_mem", (Kind.STRUCT,)) == [device]
    assert module.get(list_head) is kernel.get(list_head)
    assert find(module, "virtio_mem").member("device_list").type.tag == "list_head"
    # A name that the kernel has, too, is not written again, but found.
    assert find(module, "virtio_mem").member("flags").name == "flags"
    assert module.find("page", frozenset((TypeKind.STRUCT,))) is None, "not its own"
    assert module.btf.find("page", (Kind.STRUCT,))


def test_same_name_twice() -> None:
    """The same type twice is one; different ones cannot be told apart, and neither is "the" type."""
    b = BtfWriter()
    number = b.int_("int", 4, 1)
    for _ in range(2):
        b.struct("same", 8, [("a", number, 0), ("b", number, 32)])
    b.struct("differs", 8, [("a", number, 0), ("b", number, 32)])
    b.struct("differs", 8, [("b", number, 0), ("a", number, 32)])
    types = types_of(b)
    assert find(types, "same").size == 8
    with pytest.raises(UnknownLayout, match="2 different types named differs"):
        find(types, "differs")


def test_kinds_of_the_future_can_be_skipped() -> None:
    """Since v7.1 a table may say how long each kind is."""
    b = BtfWriter()
    before = b.int_("before", 4)
    b.add(40, "", 0, [7, 7, 1, 2], 2)  # two words, and one per element
    after = b.int_("after", 4)
    with pytest.raises(UnknownLayout, match="unknown kind 40"):
        Btf(b.data())
    btf = Btf(b.data([(0, 0)] * 40 + [(8, 4)]))
    assert [btf.find(name, (Kind.INT,)) for name in ("before", "after")] == [[before], [after]]


def test_more_elements_than_16_bits_can_count() -> None:
    b = BtfWriter()
    b.enum("huge", [(f"E{i % 7}", i) for i in range(70000)])
    assert len(Btf(b.data()).enumerators(1)) == 70000


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "magic"),
        (b"\x9f\xeb", "header is cut off"),
        (b"\x7fELF" + bytes(60), "magic"),
        (struct.pack("<HBBIIIII", 0xEB9F, 2, 0, 24, 0, 0, 0, 0), "version 2"),
        (struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 4096, 0, 0, 0, 0), "header has 4096 bytes"),
        (struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, 0xFFFFFFFC, 0, 0), "beyond its end"),
        (struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, 0, 0, 1) + b"x", "not terminated"),
        (small_kernel().data()[:-40], "beyond its end"),
    ],
)
def test_no_btf(data: bytes, message: str) -> None:
    with pytest.raises(UnknownLayout, match=message):
        Btf(data)


def damaged_by(build: object) -> Types:
    b = BtfWriter()
    build(b)  # type: ignore[operator]
    return types_of(b)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        # A struct that contains itself would have drgn, which follows anonymous members, recurse for ever.
        (lambda b: b.struct("x", 8, [("", 1, 0)]), "contains itself"),
        (lambda b: b.struct("x", 4, [("a", b.int_("long", 8), 0)]), "reaches beyond"),
        (lambda b: b.struct("x", 16, [("a", b.int_("long", 8), 0), ("b", b.int_("int", 4), 32)]), "overlap"),
        (lambda b: b.struct("x", 16, [("a", b.int_("odd", 3), 0)]), "3 bytes"),
        (lambda b: b.struct("x", 0xFFFFFFFF, []), "bytes"),
        (lambda b: b.struct("x", 64, [("a", b.array(b.int_("long", 8), 0xFFFFFFFF), 0)]), "bytes"),
        (lambda b: b.struct("x", 64, [("a", b.func("f", 0), 0)]), "no size"),
        (lambda b: b.bit_field_struct("x", 8, [("a", b.int_("int", 4), 0, 33)]), "more bits"),
        (lambda b: b.bit_field_struct("x", 8, [("a", b.ptr(0), 0, 8)]), "no integer"),
        (lambda b: b.struct("x", 8, [("a", 77, 0)]), "no type 77"),
    ],
)
def test_impossible_structs(build: object, message: str) -> None:
    types = damaged_by(build)
    with pytest.raises(UnknownLayout, match=message):
        find(types, "x")


def test_type_that_is_only_names_of_itself() -> None:
    types = damaged_by(lambda b: b.typedef("x", 1))
    with pytest.raises(UnknownLayout, match="nested too deep"):
        find(types, "x", TypeKind.TYPEDEF)


def test_function_made_of_itself() -> None:
    types = damaged_by(lambda b: (b.ptr(2), b.func_proto(0, [("f", 1)]), b.typedef("x", 2)))
    with pytest.raises(UnknownLayout, match="made of itself"):
        find(types, "x", TypeKind.TYPEDEF)


def test_reference_beyond_the_end() -> None:
    with pytest.raises(UnknownLayout, match="refers to one beyond"):
        damaged_by(lambda b: b.ptr(99))


def walk(types: Types) -> int:
    """Ask a Btf for all that it has, as deep as drgn would go, and return how much that was."""
    btf, count = types.btf, 0
    seen: dict[int, Type] = {}  # held, or another one may get the same id

    def visit(type_: Type, depth: int) -> int:
        if depth > 6 or id(type_) in seen:
            return 0
        seen[id(type_)] = type_
        visited = 1 + len(type_.type_name())
        if type_.kind in (TypeKind.STRUCT, TypeKind.UNION):
            for member in type_.members or ():
                visited += visit(member.type, depth + 1) + (member.bit_field_size or 0)
        elif type_.kind == TypeKind.FUNCTION:
            visited += sum(visit(parameter.type, depth + 1) for parameter in type_.parameters)
        elif type_.kind == TypeKind.ENUM:
            visited += len(type_.enumerators or ())
        elif type_.kind in (TypeKind.POINTER, TypeKind.ARRAY, TypeKind.TYPEDEF):
            visited += visit(type_.type, depth + 1)
        return visited

    for name in NAMES:
        for kind in KINDS:
            type_ = types.find(name, frozenset((kind,)))
            if type_ is not None:
                count += visit(type_, 0)
        count += len(btf.find_enumerators(name))
    return count + len(btf.variables())


NAMES = (
    *("page", "folio", "zone", "pglist_data", "mem_section", "list_head", "free_area", "packed", "mask", "rq"),
    *("address_space_operations", "pageflags", "zone_type", "wide", "atomic_t", "bool", "double", "char", "int"),
    *("PG_lru", "PG_head", "ZONE_MOVABLE", "ERROR_BELOW_ZERO", "WIDE_HIGH"),
)


# Of what the type of a member or a parameter raises.
MAKES_PLAIN_ONES = tuple(map(int, version("drgn").split(".")[:2])) < (0, 3)


def test_mutants() -> None:
    """Whatever the bytes are: an answer or a clean error, soon and in little memory; any other exception fails this."""
    data = small_kernel().data()
    prog = Program(Platform(Architecture.X86_64))
    whole = walk(Types(prog, Btf(data)))
    rng = random.Random(20_000)
    answers = 0
    messages: list[str] = []
    for _ in range(MUTANTS):
        try:
            types = Types(Program(Platform(Architecture.X86_64)), Btf(mutate(data, rng)))
            count = walk(types)
        except Exception as error:
            handed_on = MAKES_PLAIN_ONES and type(error) is Exception and str(error).startswith("UnknownLayout: ")
            if not isinstance(error, UnknownLayout) and not handed_on:
                raise
            messages.append(str(error))
        else:
            answers += 1
            # Damage may cut types off, but not make more of them than its bytes can hold.
            assert count < 4 * whole
    assert not [message for message in messages if "\n" in message or len(message) > 300]
    # Neither is the reader blind to damage, nor does it refuse everything.
    assert len(messages) > MUTANTS // 3
    assert answers > MUTANTS // 10
