# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where the facts lie in this target: ``facts.py`` resolved against one Program's types."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy
from drgn import FaultError, PlatformFlags, Program, Type, TypeKind, sizeof
from drgn.helpers.linux.cpumask import for_each_possible_cpu

from .errors import UnknownLayout
from .facts import FACTS, FLAGS, At, Fact
from .folios import Column
from .pagetype import (
    CLEARED_BIT_ENUMERATORS,
    MACRO_BITS,
    MACRO_BITS_WITH_KMEMCG,
    TOP_BYTE_ENUMERATORS,
    PageType,
    PageTypeEncoding,
)

MAX_STRUCT_PAGES = 4  # struct folio describes the head and three tail pages


@dataclass(frozen=True)
class Field:
    """A fact's place in memory: which struct page of the folio, and where in it."""

    fact: Fact
    page: int
    offset: int
    dtype: numpy.dtype[Any]
    mask: int | None
    place: At | None


@dataclass(frozen=True)
class BitField:
    """A field at the upper end of the flags word."""

    shift: int
    mask: int

    def of(self, flags: Column) -> Column:
        return (flags >> numpy.uint64(self.shift)) & numpy.uint64(self.mask)


@dataclass(frozen=True)
class Layout:
    """How struct pages of this target are decoded. Made by :func:`read_layout`."""

    page_struct_size: int
    vmemmap: int
    fields: dict[str, Field]
    facts: dict[str, Fact]
    flag_masks: dict[str, int]
    """Bit of each flag; 0 where this kernel has none."""
    flag_pages: dict[str, int]
    tails_hold_masks: bool
    types: PageTypeEncoding
    hugetlb_dtor: int | None
    zone: BitField
    node: BitField
    zone_names: tuple[str, ...]
    enumerators: dict[str, int]

    @property
    def struct_pages(self) -> int:
        """How many struct pages of a folio hold facts."""
        return 1 + max(field.page for field in self.fields.values())

    def flag(self, name: str) -> int:
        return self.flag_masks[name]


def _member(type_: Type, path: str) -> tuple[Type, int] | None:
    """Return the type and byte offset of a member named as in C, or None where there is none."""
    offset = 0
    for name in path.split("."):
        while type_.kind == TypeKind.TYPEDEF:
            type_ = type_.type
        if type_.kind not in (TypeKind.STRUCT, TypeKind.UNION, TypeKind.CLASS) or not type_.has_member(name):
            return None
        member = type_.member(name)
        if member.bit_field_size is not None or member.bit_offset % 8:
            return None
        offset += member.bit_offset // 8
        type_ = member.type
    return type_, offset


def find_type(prog: Program, name: str) -> Type | None:
    """Return a type by name, or None: presence tells kernels apart."""
    try:
        return prog.type(name)
    except LookupError:
        return None


def find_enumerator(prog: Program, name: str) -> int | None:
    """Return the value of an enumerator, or None."""
    try:
        return int(prog.constant(name).value_())
    except LookupError:
        return None


def has_symbol(prog: Program, name: str) -> bool:
    """Return whether the target has a function or variable of that name."""
    try:
        prog.symbol(name)
    except LookupError:
        return False
    return True


def is_little_endian(prog: Program) -> bool:
    """Return the byte order of the target."""
    platform = prog.platform
    return platform is not None and bool(platform.flags & PlatformFlags.IS_LITTLE_ENDIAN)


def possible_cpus(prog: Program) -> Iterator[int]:
    """
    Yield the number of every CPU that there can be.

    drgn goes by nr_cpu_ids, which in a damaged dump may be any number; the mask itself has its bits by its type.

    :raises FaultError: if the mask cannot be read
    """
    bits = 8 * sizeof(prog["__cpu_possible_mask"])
    for cpu in for_each_possible_cpu(prog):
        if cpu >= bits:
            return
        yield cpu


def _resolve(prog: Program, place: At, size: int, fact: Fact, order: str) -> Field | None:
    type_ = find_type(prog, place.type)
    found = None if type_ is None else _member(type_, place.member)
    if found is None:
        return None
    offset = place.page * size + found[1]
    dtype = numpy.dtype(order + fact.dtype)
    width = found[0].size
    # A field narrower than the fact (compound_order was an unsigned char, then an unsigned int) would read its
    # neighbour.
    if width is not None and width < dtype.itemsize:
        raise UnknownLayout(f"{place.type}.{place.member} has {width} bytes; {fact.name} needs {dtype.itemsize}")
    if order == ">" and width is not None:
        offset += width - dtype.itemsize
    return Field(fact, offset // size, offset % size, dtype, place.mask, place)


def find_offset(prog: Program, places: tuple[At, ...]) -> int | None:
    """Return where from the start of a folio's first struct page something lies that is no fact of a scan."""
    size = sizeof(prog.type("struct page"))
    for place in places:
        type_ = find_type(prog, place.type)
        found = None if type_ is None else _member(type_, place.member)
        if found is not None:
            return int(place.page * size + found[1])
    return None


def member_offset(prog: Program, types: tuple[str, ...], member: str) -> int:
    """
    Return where a member lies in the first of some types that this kernel has.

    :param types: Names, the newest first
    :raises UnknownLayout: if there is no such type or member
    """
    for name in types:
        type_ = find_type(prog, name)
        found = None if type_ is None else _member(type_, member)
        if found is not None:
            return found[1]
    raise UnknownLayout(f"{' or '.join(types)} with {member} not found")


def _page_types(prog: Program) -> PageTypeEncoding:
    def codes(names: dict[str, PageType]) -> tuple[tuple[int, PageType], ...]:
        found = ((find_enumerator(prog, name), page_type) for name, page_type in names.items())
        return tuple((value, page_type) for value, page_type in found if value is not None)

    if find_enumerator(prog, "PGTY_buddy") is not None:
        return PageTypeEncoding(True, codes(TOP_BYTE_ENUMERATORS))
    if find_type(prog, "enum pagetype") is not None:
        return PageTypeEncoding(False, codes(CLEARED_BIT_ENUMERATORS), base=0x80000000)
    page = prog.type("struct page")
    # The two numberings of the macros cannot be told by a name of theirs, but by the change that came with
    # 18b2db3b0385: struct page::mem_cgroup became memcg_data.
    with_kmemcg = page.has_member("mem_cgroup")
    if not with_kmemcg and not page.has_member("memcg_data"):
        raise UnknownLayout(
            "this kernel has neither enum pagetype nor a memcg member in struct page: page types unknown"
        )
    macros = MACRO_BITS_WITH_KMEMCG if with_kmemcg else MACRO_BITS
    return PageTypeEncoding(False, tuple(macros.items()))


def _zone_and_node(prog: Program) -> tuple[BitField, BitField, tuple[str, ...]]:
    """
    Return where the flags word holds zone and node.

    Their widths are preprocessor constants (include/linux/page-flags-layout.h). The zone's follows from
    MAX_NR_ZONES; the node's from the length of node_data[]. ``zones.py`` checks both against the zones' own ranges.
    """
    zone_type = find_type(prog, "enum zone_type")
    if zone_type is None or zone_type.enumerators is None:
        raise UnknownLayout("enum zone_type not found")
    names = {e.value: e.name for e in zone_type.enumerators}
    count = next((value for value, name in names.items() if name == "__MAX_NR_ZONES"), len(names))
    zone_width = max(count - 1, 0).bit_length()
    try:
        length = prog["node_data"].type_.length
        if not length:  # an array without a length: types from BTF
            length = int(_vmcoreinfo(prog).get("LENGTH(node_data)", "0"))
        if not length:
            raise UnknownLayout("length of node_data[] not known")
        node_width = (length - 1).bit_length()
    except KeyError:
        node_width = 0
    # SPARSEMEM without VMEMMAP would put the section above the node; layouts without vmemmap are refused elsewhere.
    return (
        BitField(64 - node_width - zone_width, (1 << zone_width) - 1),
        BitField(64 - node_width, (1 << node_width) - 1) if node_width else BitField(0, 0),
        tuple(names.get(i, f"zone-{i}").replace("ZONE_", "") for i in range(count)),
    )


def _vmcoreinfo(prog: Program) -> dict[str, str]:
    try:
        text = prog["VMCOREINFO"].string_().decode("ascii", "replace")
    except LookupError:
        return {}
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


ENUMERATORS = (
    "MIGRATE_CMA",
    "MIGRATE_ISOLATE",
    "PB_compact_skip",
    "PB_migrate_isolate",
    "NR_PAGEBLOCK_BITS",
    "HPG_migratable",
    "HPG_temporary",
    "HPG_freed",
    "HPG_vmemmap_optimized",
    "AS_INACCESSIBLE",
    "AS_UNMOVABLE",
    "AS_FOLIO_ORDER_MIN",
    "SECTION_IS_ONLINE_BIT",
    "BH_Lock",
    "BH_Uptodate",
)


def read_layout(prog: Program) -> Layout:
    """
    Resolve every fact against a target.

    :raises UnknownLayout: if a fact that the arithmetic cannot do without is nowhere to be found
    """
    page = find_type(prog, "struct page")
    if page is None or page.size is None:
        raise UnknownLayout("struct page not found: no debugging information, or not a Linux kernel")
    if prog.platform is None or not prog.platform.flags & PlatformFlags.IS_64_BIT:
        raise UnknownLayout("only 64-bit kernels are supported")
    order = "<" if is_little_endian(prog) else ">"
    fields = {}
    for fact in FACTS:
        field = next(filter(None, (_resolve(prog, place, page.size, fact, order) for place in fact.places)), None)
        if field is not None:
            if field.page >= MAX_STRUCT_PAGES:
                raise UnknownLayout(f"{fact.name} lies in struct page {field.page} of the folio")
            fields[fact.name] = field
        elif fact.required:
            raise UnknownLayout(f"{fact.name} not found in struct page or struct folio")
    bits = {}
    for flag in FLAGS:
        values = (find_enumerator(prog, name) for name in flag.enumerators)
        bit = next((value for value in values if value is not None), None)
        bits[flag.name] = 0 if bit is None else 1 << bit
    for name in ("lru", "head", "locked", "swapbacked", "reserved", "private_flag"):
        if not bits[name]:
            raise UnknownLayout(f"no enumerator for the page flag {name}")
    if not bits["swapcache_bit"]:
        bits["swapcache_bit"] = bits["owner_priv_1"]
    try:
        vmemmap = int(prog["vmemmap"].value_())
    except LookupError:
        raise UnknownLayout("this kernel has no virtual memory map (CONFIG_SPARSEMEM_VMEMMAP)") from None
    except FaultError as error:
        raise UnknownLayout(f"where the virtual memory map begins cannot be read: {error}") from None
    zone, node, zone_names = _zone_and_node(prog)
    enumerators = {name: find_enumerator(prog, name) for name in ENUMERATORS}
    place = fields["compound_word"].place
    return Layout(
        page_struct_size=page.size,
        vmemmap=vmemmap,
        fields=fields,
        facts={fact.name: fact for fact in FACTS},
        flag_masks=bits,
        flag_pages={flag.name: flag.page for flag in FLAGS},
        tails_hold_masks=place is not None and place.address_masks,
        types=_page_types(prog),
        hugetlb_dtor=find_enumerator(prog, "HUGETLB_PAGE_DTOR"),
        zone=zone,
        node=node,
        zone_names=zone_names,
        enumerators={name: value for name, value in enumerators.items() if value is not None},
    )
