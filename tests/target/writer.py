# SPDX-License-Identifier: LGPL-2.1-or-later
"""Writes BTF, by the format's description and not by our reader, so that neither hides the mistakes of the other."""

from __future__ import annotations

import struct
from collections.abc import Sequence

Members = Sequence[tuple[str, int, int]]


class BtfWriter:
    """
    Each method adds one type and returns its number; 0 is void.

    :param base: Continue the numbers and strings of this one, as the BTF of a module does
    """

    def __init__(self, order: str = "<", base: BtfWriter | None = None) -> None:
        self.order = order
        self.types: list[bytes] = []
        self.strings = b"" if base else b"\0"
        self._first_type = base.next_type if base else 1
        self._first_string = base.end_of_strings if base else 0
        self._base = base
        self._offsets: dict[str, int] = {}

    @property
    def next_type(self) -> int:
        return self._first_type + len(self.types)

    @property
    def end_of_strings(self) -> int:
        return self._first_string + len(self.strings)

    def string(self, text: str) -> int:
        if not text:
            return 0
        if self._base is not None and text in self._base._offsets:
            return self._base._offsets[text]
        if text not in self._offsets:
            self._offsets[text] = self.end_of_strings
            self.strings += text.encode() + b"\0"
        return self._offsets[text]

    def add(
        self, kind: int, name: str, third: int, words: Sequence[int] = (), count: int = 0, flag: bool = False
    ) -> int:
        info = flag << 31 | kind << 24 | count
        self.types.append(struct.pack(f"{self.order}{3 + len(words)}I", self.string(name), info, third, *words))
        return self.next_type - 1

    def int_(self, name: str, size: int, encoding: int = 0, offset: int = 0, bits: int | None = None) -> int:
        return self.add(1, name, size, [encoding << 24 | offset << 16 | (8 * size if bits is None else bits)])

    def ptr(self, type_: int) -> int:
        return self.add(2, "", type_)

    def array(self, element: int, length: int) -> int:
        return self.add(3, "", 0, [element, 0, length])

    def struct(self, name: str, size: int, members: Members, union: bool = False) -> int:
        """Add a struct whose members have a name, a type and an offset in bits."""
        words = [word for member, type_, offset in members for word in (self.string(member), type_, offset)]
        return self.add(5 if union else 4, name, size, words, len(members))

    def bit_field_struct(self, name: str, size: int, members: Sequence[tuple[str, int, int, int]]) -> int:
        """Add a struct whose members also have a number of bits; 0 for those that are no bit-fields."""
        words = [
            word
            for member, type_, offset, bits in members
            for word in (self.string(member), type_, bits << 24 | offset)
        ]
        return self.add(4, name, size, words, len(members), flag=True)

    def enum(self, name: str, values: Sequence[tuple[str, int]], size: int = 4, signed: bool = False) -> int:
        words = [word for member, value in values for word in (self.string(member), value & 0xFFFFFFFF)]
        return self.add(6, name, size, words, len(values), flag=signed)

    def enum64(self, name: str, values: Sequence[tuple[str, int]], signed: bool = False) -> int:
        words = [
            word
            for member, value in values
            for word in (self.string(member), value & 0xFFFFFFFF, value >> 32 & 0xFFFFFFFF)
        ]
        return self.add(19, name, 8, words, len(values), flag=signed)

    def fwd(self, name: str, union: bool = False) -> int:
        return self.add(7, name, 0, flag=union)

    def typedef(self, name: str, type_: int) -> int:
        return self.add(8, name, type_)

    def volatile(self, type_: int) -> int:
        return self.add(9, "", type_)

    def const(self, type_: int) -> int:
        return self.add(10, "", type_)

    def restrict(self, type_: int) -> int:
        return self.add(11, "", type_)

    def func(self, name: str, prototype: int) -> int:
        return self.add(12, name, prototype, count=1)  # linkage: global

    def func_proto(self, result: int, parameters: Sequence[tuple[str, int]]) -> int:
        words = [word for name, type_ in parameters for word in (self.string(name), type_)]
        return self.add(13, "", result, words, len(parameters))

    def var(self, name: str, type_: int) -> int:
        return self.add(14, name, type_, [1])

    def datasec(self, name: str, variables: Sequence[tuple[int, int, int]]) -> int:
        """Add a section of variables: number, offset, size."""
        return self.add(15, name, 0, [word for variable in variables for word in variable], len(variables))

    def float_(self, name: str, size: int) -> int:
        return self.add(16, name, size)

    def decl_tag(self, name: str, type_: int) -> int:
        return self.add(17, name, type_, [0xFFFFFFFF])

    def type_tag(self, name: str, type_: int) -> int:
        return self.add(18, name, type_)

    def data(self, layouts: Sequence[tuple[int, int]] = ()) -> bytes:
        """
        Return it all.

        :param layouts: Bytes of each kind, once and per element, for a header as of v7.1
        """
        types = b"".join(self.types)
        layout = b"".join(struct.pack(self.order + "BBH", once, each, 0) for once, each in layouts)
        size = 32 if layouts else 24
        header = struct.pack(
            self.order + "HBBIIIII",
            0xEB9F,
            1,
            0,
            size,
            len(layout),
            len(types),
            len(layout) + len(types),
            len(self.strings),
        )
        if layouts:
            header += struct.pack(self.order + "II", 0, len(layout))
        return header + layout + types + self.strings


PAGE_FLAGS = ("PG_locked", "PG_writeback", "PG_referenced", "PG_uptodate", "PG_dirty", "PG_lru", "PG_head")


def small_kernel(order: str = "<") -> BtfWriter:
    """Return a kernel of a few dozen types, of all kinds, in the ways in which real ones use them."""
    b = BtfWriter(order)
    char, int_, uint = b.int_("char", 1, 1), b.int_("int", 4, 1), b.int_("unsigned int", 4)
    ulong, u8 = b.int_("long unsigned int", 8), b.int_("unsigned char", 1)
    boolean = b.int_("_Bool", 1, 4)
    b.typedef("bool", boolean)
    b.float_("double", 8)
    atomic = b.typedef("atomic_t", b.struct("", 4, [("counter", int_, 0)]))
    # struct list_head { struct list_head *next, *prev; }: a pointer to what comes after it.
    link = b.ptr(b.next_type + 1)
    list_head = b.struct("list_head", 16, [("next", link, 0), ("prev", link, 64)])
    pageflags = b.enum("pageflags", [(name, i) for i, name in enumerate(PAGE_FLAGS)])
    b.enum("zone_type", [("ZONE_DMA", 0), ("ZONE_NORMAL", 1), ("ZONE_MOVABLE", 2), ("__MAX_NR_ZONES", 3)])
    b.enum("", [("ERROR_BELOW_ZERO", -22), ("ERROR_NONE", 0)], signed=True)
    b.enum64("wide", [("WIDE_LOW", 1), ("WIDE_HIGH", 1 << 40)])
    space = b.fwd("address_space")
    rcu = b.type_tag("rcu", space)
    lru = b.struct(
        "", 40, [("lru", list_head, 0), ("mapping", b.ptr(rcu), 128), ("index", ulong, 192), ("private", ulong, 256)]
    )
    compound = b.struct("", 8, [("compound_head", ulong, 0)])
    middle = b.struct("", 40, [("", lru, 0), ("", compound, 0)], union=True)
    mapcount = b.struct("", 4, [("_mapcount", atomic, 0), ("page_type", uint, 0)], union=True)
    page = b.struct(
        "page",
        64,
        [
            ("flags", ulong, 0),
            ("", middle, 64),
            ("", mapcount, 384),
            ("_refcount", atomic, 416),
            ("memcg_data", ulong, 448),
        ],
    )
    head = b.struct("", 64, [("flags", ulong, 0), ("lru", list_head, 64), ("_mapcount", atomic, 384)])
    first = b.struct("", 64, [("", head, 0), ("page", page, 0)], union=True)
    b.struct("folio", 128, [("", first, 0), ("__page_1", page, 512)])
    b.struct("mem_section", 16, [("section_mem_map", ulong, 0), ("usage", b.ptr(0), 64)])
    free_area = b.struct("free_area", 88, [("free_list", b.array(list_head, 5), 0), ("nr_free", ulong, 640)])
    zone = b.struct(
        "zone",
        1024,
        [
            ("name", b.ptr(b.const(char)), 0),
            ("free_area", b.array(free_area, 11), 64),
            ("spanned_pages", b.volatile(ulong), 7808),
        ],
    )
    b.struct(
        "pglist_data",
        3136,
        [("node_zones", b.array(zone, 3), 0), ("node_id", int_, 24576), ("flags", pageflags, 24608)],
    )
    b.bit_field_struct("packed", 8, [("state", uint, 0, 3), ("frozen", uint, 3, 1), ("cpu", int_, 32, 0)])
    b.struct("mask", 8, [("nr", int_, 0), ("bits", b.array(u8, 0), 32)])
    read = b.func_proto(int_, [("page", b.ptr(page)), ("buf", b.restrict(b.ptr(char))), ("", 0)])
    read_pointer, other = b.ptr(read), b.ptr(b.next_type + 1)
    b.struct("address_space_operations", 16, [("read", read_pointer, 0), ("next", other, 64)])
    b.func("vmemmap_populate", read)
    b.decl_tag("kfunc", b.next_type - 1)
    rq = b.struct("rq", 256, [("nr_running", uint, 0), ("lock", atomic, 32)])
    runqueues, batches = b.var("runqueues", rq), b.var("cpu_fbatches", list_head)
    b.datasec(".data..percpu", [(runqueues, 0x100, 256), (batches, 0x240, 16)])
    return b
