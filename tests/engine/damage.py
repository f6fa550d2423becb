# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Ways to damage a dump: what wild writes, bit flips, torn pages, and dumps taken in the middle of a change leave behind.

Each is a function of a :class:`Patient` and a random number generator. None of them knows the package.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Callable

import numpy
from drgn import FaultError, Object, Program, offsetof, sizeof
from drgn.helpers.linux.cpumask import for_each_possible_cpu
from drgn.helpers.linux.mm import for_each_memory_block, pfn_to_page
from drgn.helpers.linux.mmzone import for_each_online_pgdat
from drgn.helpers.linux.percpu import per_cpu

from tests.vm.lab import UNREAD

from .overlay import PAGE_SIZE, Overlay

KPF_LRU, KPF_BUDDY, KPF_COMPOUND_HEAD, KPF_COMPOUND_TAIL, KPF_NOPAGE = (1 << bit for bit in (5, 10, 15, 16, 20))
U64 = 0xFFFFFFFFFFFFFFFF
EXTREMES = (0, 1, 2, 3, 0x7F, 0xFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 62, 1 << 63, U64 - 1, U64)


@dataclass
class Patient:
    """A dump to be damaged, and where to find things in it."""

    overlay: Overlay
    touched: list[int] = field(default_factory=list)
    """Page frames whose struct pages were damaged."""

    @property
    def prog(self) -> Program:
        return self.overlay.prog

    @cached_property
    def used(self) -> list[int]:
        """Page frames that are in use, by the guest's own flags."""
        flags = self.overlay.dump.kpageflags
        return [int(pfn) for pfn in numpy.flatnonzero((flags & numpy.uint64(KPF_BUDDY | KPF_NOPAGE)) == 0)]

    @cached_property
    def valid(self) -> set[int]:
        """Page frames that the guest has."""
        return {int(pfn) for pfn in numpy.flatnonzero(self.overlay.dump.kpageflags != numpy.uint64(UNREAD))}

    @cached_property
    def heads(self) -> list[int]:
        """Page frames of heads of large folios."""
        return self.with_flag(KPF_COMPOUND_HEAD)

    @cached_property
    def lru(self) -> list[int]:
        """Page frames on LRU lists."""
        return self.with_flag(KPF_LRU)

    def with_flag(self, flag: int) -> list[int]:
        """Return page frames of folios by a flag that the guest saw."""
        flags = self.overlay.dump.kpageflags
        ignored = KPF_COMPOUND_TAIL | KPF_NOPAGE
        return [int(pfn) for pfn in numpy.flatnonzero((flags & numpy.uint64(flag | ignored)) == flag)]

    def member(self, name: str) -> int:
        """Return the offset of a member of struct page."""
        offset: int = offsetof(self.prog.type("struct page"), name)
        return offset

    @cached_property
    def compound_word(self) -> int:
        """Where struct page holds what a tail page has of its head."""
        page = self.prog.type("struct page")
        return self.member("compound_info" if page.has_member("compound_info") else "compound_head")

    def write_page(self, pfn: int, offset: int, data: bytes) -> None:
        """Write into a struct page."""
        self.touched.append(pfn)
        self.overlay.write(self.overlay.page_address(pfn) + offset, data)

    def pointer(self, rng: random.Random) -> int:
        """Return something that could be taken for a pointer."""
        return rng.choice(
            (
                0,
                rng.getrandbits(64),
                rng.getrandbits(47),
                U64 << 47 & U64 | rng.getrandbits(47),
                rng.choice(EXTREMES),
                self.overlay.page_address(rng.choice(self.used)),
                self.in_direct_map(rng),
                int(self.prog.symbol("init_task").address) + rng.randrange(4096),
            )
        )

    def in_direct_map(self, rng: random.Random) -> int:
        """Return the address of something in memory."""
        return int(self.prog["page_offset_base"].value_()) + rng.choice(self.used) * PAGE_SIZE + rng.randrange(4096)


Damage = Callable[[Patient, random.Random], None]
DAMAGES: dict[str, Damage] = {}
# What may leave nothing to stand on: where memory is, and where its struct pages are. All else must not keep a report
# from telling what it can.
MAY_BE_FATAL = frozenset(
    (
        "damaged_sections",
        "damaged_zones",
        "damaged_variables",
        "damaged_page_tables",
        "random_memory",
        "unreadable_memory",
    )
)


def damage(function: Damage) -> Damage:
    """Register a way to damage."""
    DAMAGES[function.__name__] = function
    return function


def _u64(value: int) -> bytes:
    return struct.pack("<Q", value & U64)


def _u32(value: int) -> bytes:
    return struct.pack("<I", value & 0xFFFFFFFF)


# -- struct pages ------------------------------------------------------------------------------------------------------


@damage
def flipped_bits_in_struct_pages(p: Patient, rng: random.Random) -> None:
    """Bad memory."""
    for _ in range(rng.choice((1, 30, 600))):
        pfn, offset = rng.choice(p.used), rng.randrange(p.overlay.page_size)
        old = p.prog.read(p.overlay.page_address(pfn) + offset, 1)[0]
        p.write_page(pfn, offset, bytes([old ^ 1 << rng.randrange(8)]))


@damage
def struct_pages_overwritten(p: Patient, rng: random.Random) -> None:
    """A wild write over a run of them."""
    for _ in range(rng.choice((1, 5))):
        first, size = rng.choice(p.used), p.overlay.page_size
        for pfn in range(first, min(first + rng.choice((1, 16, 300)), p.used[-1])):
            p.write_page(pfn, 0, rng.randbytes(size))


@damage
def struct_pages_of_one_byte(p: Patient, rng: random.Random) -> None:
    """Cleared, never initialised, or poisoned."""
    for _ in range(4):
        first, value = rng.choice(p.used) & ~63, rng.choice((0x00, 0xFF, 0x6B, 0xAA))
        for pfn in range(first, min(first + rng.choice((64, 512)), p.used[-1])):
            p.write_page(pfn, 0, bytes([value]) * p.overlay.page_size)


@damage
def struct_pages_of_others(p: Patient, rng: random.Random) -> None:
    """Copies of whole runs, large folios with their tails among them, elsewhere: each sound, but not where it is."""
    size = p.overlay.page_size
    for _ in range(20):
        pages = rng.choice((1, 2, 16, 512))
        source = rng.choice((rng.choice(p.heads), rng.choice(p.lru)))
        if source + pages - 1 in p.valid:
            target = rng.choice(p.used)
            data = p.prog.read(p.overlay.page_address(source), pages * size)
            for i in range(pages):
                if target + i in p.valid:
                    p.write_page(target + i, 0, data[i * size : (i + 1) * size])


@damage
def extreme_counts(p: Patient, rng: random.Random) -> None:
    """Overflows and underflows of reference and map counts, of small and large folios."""
    refcount, mapcount, page = p.member("_refcount"), p.member("_mapcount"), p.overlay.page_size
    for pfn in rng.sample(p.lru, 200) + rng.sample(p.heads, 60):
        p.write_page(pfn, rng.choice((refcount, mapcount)), _u32(rng.choice(EXTREMES)))
    for pfn in rng.sample(p.heads, 60):
        for tail in (1, 2):
            p.write_page(pfn + tail, rng.randrange(2, page // 4) * 4, _u32(rng.choice(EXTREMES)))


@damage
def wrong_orders(p: Patient, rng: random.Random) -> None:
    """Heads whose size is nonsense, and heads that are none."""
    flags, head = p.member("flags"), int(p.prog.constant("PG_head").value_())
    for pfn in rng.sample(p.heads, 80):
        for offset in (flags, p.member("lru") + 8, p.member("lru") + 9):
            p.write_page(pfn + 1, offset, bytes([rng.choice((0, 1, 9, 10, 18, 22, 23, 30, 63, 64, 200, 255))]))
    for pfn in rng.sample(p.used, 300):
        word = int.from_bytes(p.prog.read(p.overlay.page_address(pfn) + flags, 8), "little")
        p.write_page(pfn, flags, _u64(word | 1 << head))


@damage
def tails_that_lead_nowhere(p: Patient, rng: random.Random) -> None:
    """Tails of themselves, of each other, of what is no struct page, and of masks."""
    for pfn in rng.sample(p.used, 300):
        other = p.overlay.page_address(rng.choice(p.used))
        word = rng.choice(
            (
                p.overlay.page_address(pfn),
                p.overlay.page_address(pfn + 1),
                other,
                other + rng.randrange(64),
                p.overlay.vmemmap - 64,
                U64 << rng.randrange(1, 63),
                rng.choice(EXTREMES),
                rng.getrandbits(64),
            )
        )
        p.write_page(pfn, p.compound_word, _u64(word | 1))


@damage
def wrong_types(p: Patient, rng: random.Random) -> None:
    """Page types where none should be, free blocks of nonsense sizes, known types and unknown ones."""
    for pfn in rng.sample(p.used, 200) + rng.sample(p.heads, 50):
        word = rng.choice((rng.randrange(0xF0, 0x100) << 24, 0xFFFFFFFF ^ 1 << rng.randrange(32), rng.getrandbits(32)))
        p.write_page(pfn, p.member("_mapcount"), _u32(word))
        p.write_page(pfn, p.member("private"), _u64(rng.choice((*EXTREMES, 9, 10, 11, 30))))


@damage
def unreadable_struct_pages(p: Patient, rng: random.Random) -> None:
    """Pieces of the memmap that the dump does not have."""
    for _ in range(rng.choice((1, 6))):
        pfn = rng.choice(p.used) & ~63
        for piece in range(pfn, pfn + 64 * rng.choice((1, 1, 8, 100)), 64):
            if piece in p.valid:
                p.touched.append(piece)
                p.overlay.make_unreadable(p.overlay.physical(p.overlay.page_address(piece)) // PAGE_SIZE)


# -- what struct pages lead to -----------------------------------------------------------------------------------------


@damage
def mappings_that_lead_nowhere(p: Patient, rng: random.Random) -> None:
    """Pointers to address_spaces that are none."""
    for pfn in rng.sample(p.lru, 400):
        p.write_page(pfn, p.member("mapping"), _u64(p.pointer(rng)))


def _address_spaces(p: Patient, rng: random.Random, count: int) -> Iterator[Object]:
    """Yield the address_spaces of some folios."""
    for pfn in rng.sample(p.lru, count):
        mapping = pfn_to_page(p.prog, pfn).mapping
        if mapping and not mapping.value_() & 3:
            p.touched.append(pfn)
            yield mapping


@damage
def damaged_address_spaces(p: Patient, rng: random.Random) -> None:
    """Real ones, with operations and flags of nonsense."""
    for mapping in _address_spaces(p, rng, 200):
        member = rng.choice(("a_ops", "flags", "host", "a_ops"))
        p.overlay.write_u64(mapping.member_(member).address_of_().value_(), p.pointer(rng))


@damage
def damaged_operations(p: Patient, rng: random.Random) -> None:
    """The tables of operations themselves, which many folios share."""
    for mapping in _address_spaces(p, rng, 40):
        size = sizeof(mapping.a_ops.type_.type)
        p.overlay.write_u64(mapping.a_ops.value_() + rng.randrange(size // 8) * 8, p.pointer(rng))


def _block_device_pages(p: Patient) -> list[int]:
    """Return page frames with buffers of block devices: the workload mounts ext4."""
    with_private = 1 << 35
    operations = p.prog.symbol("def_blk_aops").address
    found = []
    for pfn in p.with_flag(with_private):
        mapping = pfn_to_page(p.prog, pfn).mapping
        if mapping and not mapping.value_() & 3 and mapping.a_ops.value_() == operations:
            found.append(pfn)
    return found


@damage
def damaged_buffers(p: Patient, rng: random.Random) -> None:
    """Rings of buffer heads that end in nothing, in themselves, or never."""
    pfns = _block_device_pages(p)
    for pfn in rng.sample(pfns, min(len(pfns), 12)):
        first = p.prog.read_u64(p.overlay.page_address(pfn) + p.member("private"))
        buffer = Object(p.prog, "struct buffer_head *", first)
        p.touched.append(pfn)
        kind = rng.randrange(5)
        following = buffer.b_this_page.value_()
        at = buffer.b_this_page.address_of_().value_()
        if kind == 0:
            p.overlay.write_u64(at, p.pointer(rng))
        elif kind == 1 and following != first:  # a ring that the first is not in
            p.overlay.write_u64(Object(p.prog, "struct buffer_head *", following).b_this_page.address_of_(), following)
        elif kind == 2:
            p.overlay.write_u32(buffer.b_count.address_of_().value_(), rng.choice(EXTREMES))
        elif kind == 3:
            p.write_page(pfn, p.member("private"), _u64(p.pointer(rng)))
        else:  # a long way without an end
            start = p.in_direct_map(rng) & ~(PAGE_SIZE - 1)
            p.overlay.write_u64(at, start)
            offset = at - first
            for step in range(16):
                p.overlay.write_u64(start + 128 * step + offset, start + 128 * (step + 1) % 2048)
                p.overlay.write_u32(start + 128 * step + buffer.b_count.address_of_().value_() - first, 0)


# -- what is read once -------------------------------------------------------------------------------------------------


@damage
def damaged_batches(p: Patient, rng: random.Random) -> None:
    """Per-CPU batches with too many entries, or entries that are no folios."""
    for name in ("cpu_fbatches", "lru_pvecs", "lru_rotate", "mlock_fbatch", "mlock_pvec"):
        try:
            variable = p.prog[name]
        except LookupError:
            continue
        for cpu in for_each_possible_cpu(p.prog):
            batch = per_cpu(variable, cpu)
            size = sizeof(batch)
            p.overlay.write(batch.address_of_().value_(), rng.randbytes(size))
            for offset in range(0, size, 8):
                choice = rng.randrange(3)
                if choice:
                    value = p.pointer(rng) if choice == 1 else p.overlay.page_address(rng.choice(p.used))
                    p.overlay.write_u64(batch.address_of_().value_() + offset, value)


@damage
def damaged_sections(p: Patient, rng: random.Random) -> None:
    """The table of sections, and the pageblock flags that it leads to."""
    table = p.prog["mem_section"]
    root = table[0].value_()
    size = sizeof(p.prog.type("struct mem_section"))
    kind = rng.randrange(4)
    if kind == 0:
        p.overlay.write_u64(int(table.value_()) if table.type_.type_name().count("*") > 1 else 0, p.pointer(rng))
        return
    for _ in range(rng.choice((1, 3, 20))):
        section = root + rng.choice((0, 1, 2, 3, 32, 33, 34, 35, rng.randrange(128))) * size
        if kind == 1:
            p.overlay.write_u64(section, p.pointer(rng) | rng.choice((0, 2, 6, 7)))
        elif kind == 2:
            p.overlay.write_u64(section + 8, p.pointer(rng))
        else:
            p.overlay.write(section, rng.randbytes(size))


@damage
def damaged_pageblock_flags(p: Patient, rng: random.Random) -> None:
    """Pageblocks that claim to be CMA's, isolated, or of no migrate type."""
    size = sizeof(p.prog.type("struct mem_section"))
    for number in (0, 1, 2, 32, 33, 34, 35):
        usage = Object(p.prog, "struct mem_section", address=p.prog["mem_section"][0].value_() + number * size).usage
        p.overlay.write(usage.pageblock_flags.address_of_().value_(), rng.randbytes(64))
        p.touched.append(number << 15)


@damage
def damaged_memory_blocks(p: Patient, rng: random.Random) -> None:
    """Blocks with nonsense in them, and a list of blocks that turns back on itself or leads astray."""
    blocks = list(for_each_memory_block(p.prog))
    for block in rng.sample(blocks, rng.randrange(1, len(blocks) + 1)):
        kind = rng.randrange(6)
        if kind == 0:
            p.overlay.write_u64(block.start_section_nr.address_of_().value_(), rng.choice((*EXTREMES, 5, 33)))
        elif kind == 1:
            address = block.state.address_of_().value_()
            p.overlay.write(address, rng.randbytes(sizeof(block.state)))
        elif kind == 2:
            _damage_list(p, rng, blocks, block)
        elif kind == 3:
            p.overlay.write(block.value_(), rng.randbytes(sizeof(block.type_.type)))
        elif kind == 4:
            p.overlay.write_u64(p.prog["memory_subsys"].address_of_().value_() + 8 * rng.randrange(20), p.pointer(rng))
        else:
            p.overlay.write_u64(p.prog.symbol("sections_per_block").address, rng.choice((*EXTREMES, 7, 64, 1 << 20)))


def _damage_list(p: Patient, rng: random.Random, blocks: list[Object], block: Object) -> None:
    """Make the list of the memory subsystem's devices lead from one block to any other, or somewhere else."""

    def node(one: Object) -> int:
        return int(one.dev.p.knode_bus.n_node.address_of_().value_())

    p.overlay.write_u64(node(block), rng.choice((node(rng.choice(blocks)), node(block), p.pointer(rng))))


@damage
def damaged_resources(p: Patient, rng: random.Random) -> None:
    """The tree of /proc/iomem with loops, with names that never end, and ranges that end before they begin."""
    tree = list(_resources(p.prog["iomem_resource"].child))
    for resource in rng.sample(tree, min(len(tree), 6)):
        member = rng.choice(("child", "sibling", "name", "start", "end"))
        value = rng.choice(tree).value_() if member in ("child", "sibling") and rng.random() < 0.7 else p.pointer(rng)
        p.overlay.write_u64(resource.member_(member).address_of_().value_(), value)


def _resources(resource: Object) -> Iterator[Object]:
    while resource:
        yield resource
        yield from _resources(resource.child)
        resource = resource.sibling


@damage
def names_without_end(p: Patient, rng: random.Random) -> None:
    """Pointers to names that lead into megabytes without a zero byte."""
    first = p.overlay.dump.hotplug_pfns.start
    for frame in range(first, first + 4096):
        p.overlay.write_physical(frame * PAGE_SIZE, b"A" * PAGE_SIZE)
    address = int(p.prog["page_offset_base"].value_()) + first * PAGE_SIZE
    for resource in _resources(p.prog["iomem_resource"].child):
        p.overlay.write_u64(resource.member_("name").address_of_().value_(), address + rng.randrange(PAGE_SIZE))


@damage
def damaged_zones(p: Patient, rng: random.Random) -> None:
    """Zones that are elsewhere, or endless; nodes that are not there."""
    for _ in range(rng.choice((1, 4))):
        pgdat = rng.choice(list(for_each_online_pgdat(p.prog)))
        zone = pgdat.node_zones[rng.randrange(4)]
        member = rng.choice(("zone_start_pfn", "spanned_pages", "present_pages"))
        kind = rng.randrange(4)
        if kind == 0:
            p.overlay.write_u32(pgdat.node_id.address_of_().value_(), rng.choice(EXTREMES))
        elif kind == 1:
            p.overlay.write_u64(p.prog["node_data"][rng.randrange(2)].address_of_().value_(), p.pointer(rng))
            return
        elif kind == 2:
            p.overlay.write(zone.free_area.address_of_().value_(), rng.randbytes(sizeof(zone.free_area)))
        else:
            p.overlay.write_u64(zone.member_(member).address_of_().value_(), rng.choice((*EXTREMES, 0x100000)))


@damage
def damaged_hstates(p: Patient, rng: random.Random) -> None:
    """Pools of huge pages of any size and number."""
    p.overlay.write_u32(p.prog.symbol("hugetlb_max_hstate").address, rng.choice(EXTREMES))
    size = sizeof(p.prog["hstates"])
    for _ in range(rng.choice((1, 30))):
        p.overlay.write_u32(p.prog.symbol("hstates").address + rng.randrange(size // 4) * 4, rng.choice(EXTREMES))


@damage
def damaged_variables(p: Patient, rng: random.Random) -> None:
    """Single numbers that everything hangs on."""
    names = (
        "zero_pfn",
        "zero_page_pfn",
        "huge_zero_page",
        "huge_zero_folio",
        "sections_per_block",
        "__highest_present_section_nr",
        "sysctl_compact_unevictable_allowed",
        "nr_cpu_ids",
        "__cpu_possible_mask",
        "__cpu_online_mask",
        "node_states",
        "__per_cpu_offset",
        "bh_lrus",
        "vmemmap_base",
        "page_offset_base",
    )
    for name in rng.sample(names, 3):
        try:
            symbol = p.prog.symbol(name)
        except LookupError:
            continue
        try:
            p.overlay.write_u64(symbol.address, rng.choice((*EXTREMES, rng.getrandbits(64))))
        except FaultError:  # an offset into a CPU's own memory
            continue


@damage
def damaged_code(p: Patient, rng: random.Random) -> None:
    """The machine code that tells which form the racy check has."""
    symbol = p.prog.symbol("isolate_migratepages_block")
    length = rng.randrange(1, symbol.size)
    p.overlay.write(symbol.address + rng.randrange(symbol.size - length + 1), rng.randbytes(length))


@damage
def damaged_page_tables(p: Patient, rng: random.Random) -> None:
    """The kernel's own page tables, as far as they map the memmap."""
    levels = 5 if b"NUMBER(pgtable_l5_enabled)=1\n" in p.prog["VMCOREINFO"].string_() else 4
    address = p.overlay.page_address(rng.choice(p.used))
    table = p.overlay.physical(p.prog["init_mm"].pgd.value_())
    depth = rng.randrange(2, levels)
    for level in range(levels, 0, -1):
        entry = table + (address >> (12 + 9 * (level - 1)) & 511) * 8
        value = p.prog.read_u64(entry, True)
        if level == levels - depth or value & 0x80 or not value & 1:
            bit = rng.choice((0, 7, 63, *range(12, 40)))
            p.overlay.write_physical(entry, _u64(value ^ 1 << bit))
            return
        table = value & 0x000FFFFFFFFFF000


@damage
def random_memory(p: Patient, rng: random.Random) -> None:
    """Whole pages of noise, anywhere."""
    for _ in range(rng.choice((20, 200))):
        p.overlay.write_physical(rng.choice(p.used) * PAGE_SIZE, rng.randbytes(PAGE_SIZE))


@damage
def unreadable_memory(p: Patient, rng: random.Random) -> None:
    """Pages that a filtered dump left out, anywhere."""
    for _ in range(rng.choice((20, 2000))):
        p.overlay.make_unreadable(rng.choice(p.used))


def damaged(overlay: Overlay, name: str, seed: int) -> Patient:
    """Damage a dump, always the same way for the same seed."""
    overlay.mend()
    patient = Patient(overlay)
    DAMAGES[name](patient, random.Random(f"{overlay.dump.kernel} {name} {seed}"))
    return patient
