# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where in physical memory a kernel keeps what the analysis reads, so that a test can take it away."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import drgn
import numpy
from drgn import Object, Program
from drgn.helpers.linux.cpumask import for_each_possible_cpu
from drgn.helpers.linux.mm import compound_head, follow_phys, for_each_memory_block, pfn_to_page
from drgn.helpers.linux.mmzone import NODE_DATA
from drgn.helpers.linux.percpu import per_cpu_ptr

from tests.vm.lab import UNREAD, Dump

PAGE = 4096
KPF_SLAB = 1 << 7
Hole = tuple[int, int]


class Places:
    """One dump, opened with drgn alone."""

    def __init__(self, dump: Dump) -> None:
        self.dump = dump
        self.prog = Program()
        self.prog.set_core_dump(str(dump.vmcore))
        self.prog.load_debug_info([str(dump.vmlinux)])
        self._init_mm = self.prog["init_mm"].address_of_()

    def physical(self, address: int, size: int) -> Iterator[Hole]:
        """Yield the physical memory behind a range of kernel addresses, page by page."""
        end = address + size
        while address < end:
            piece = min(end, (address & -PAGE) + PAGE) - address
            yield int(follow_phys(self._init_mm, address)), piece
            address += piece

    def object(self, value: Object) -> list[Hole]:
        """Return where an object lies."""
        return list(self.physical(int(value.address_), drgn.sizeof(value)))

    def variable(self, name: str) -> list[Hole]:
        return self.object(self.prog[name])

    def memory_blocks(self) -> list[Hole]:
        return [hole for block in for_each_memory_block(self.prog) for hole in self.object(block[0])]

    def pages(self, pfns: Iterable[int]) -> list[Hole]:
        """Return where the struct pages of some page frames are."""
        return [hole for pfn in pfns for hole in self.object(pfn_to_page(self.prog, pfn)[0])]

    def address_spaces(self) -> list[Hole]:
        """Return what the marked file pages of node 1 belong to."""
        spaces = set()
        for mark in self.dump.marks:
            if mark.kind == "file" and mark.pfn in self.dump.hotplug_pfns:
                head = compound_head(pfn_to_page(self.prog, mark.pfn))
                if int(head.mapping) and not int(head.mapping) & 3:
                    spaces.add(int(head.mapping))
        size = drgn.sizeof(self.prog.type("struct address_space"))
        return [hole for space in sorted(spaces) for hole in self.physical(space, size)]

    def usages(self, pfns: Iterable[int]) -> list[Hole]:
        """Return what holds the flags of the pageblocks of some sections."""
        per_root = int(self.prog["SECTIONS_PER_ROOT"])
        shift = int(self.prog["SECTION_SIZE_BITS"]) - int(self.prog["PAGE_SHIFT"])
        holes: list[Hole] = []
        for section in sorted({pfn >> shift for pfn in pfns}):
            usage = self.prog["mem_section"][section // per_root][section % per_root].usage
            holes += self.physical(int(usage), drgn.sizeof(usage[0]) + 8)
        return holes

    def section_roots(self) -> list[Hole]:
        """Return the second level of the table of sections."""
        size = int(self.prog["SECTIONS_PER_ROOT"]) * drgn.sizeof(self.prog.type("struct mem_section"))
        return list(self.physical(int(self.prog["mem_section"][0]), size))

    def section_table(self) -> list[Hole]:
        return list(self.physical(int(self.prog["mem_section"]), 8))

    def node(self, number: int) -> list[Hole]:
        return self.object(NODE_DATA(self.prog, number)[0])

    def per_cpu_area(self, cpu: int) -> list[Hole]:
        """Return the per-CPU variables of one CPU that hold batches."""
        holes = []
        for name in ("cpu_fbatches", "lru_pvecs", "lru_rotate", "mlock_fbatch", "mlock_pvec"):
            if name in self.prog:
                holes += self.object(per_cpu_ptr(self.prog[name].address_of_(), cpu)[0])
        assert holes
        return holes

    def recent_buffers(self) -> list[Hole]:
        pointer = self.prog["bh_lrus"].address_of_()
        return [h for cpu in for_each_possible_cpu(self.prog) for h in self.object(per_cpu_ptr(pointer, cpu)[0])]

    def resources(self) -> list[Hole]:
        """Return the first of what /proc/iomem lists."""
        return self.object(self.prog["iomem_resource"].child[0])

    def function(self, name: str) -> list[Hole]:
        symbol = self.prog.symbol(name)
        return list(self.physical(symbol.address, symbol.size))

    def slab(self) -> list[Hole]:
        """Return all of slab, by the guest's own flags: what versions of makedumpfile that know no better leave out."""
        flags = self.dump.kpageflags
        known = numpy.where(flags == numpy.uint64(UNREAD), numpy.uint64(0), flags)
        pfns = numpy.flatnonzero(known & numpy.uint64(KPF_SLAB))
        runs = numpy.split(pfns, numpy.flatnonzero(numpy.diff(pfns) != 1) + 1)
        return [(int(run[0]) * PAGE, len(run) * PAGE) for run in runs]

    def present_ranges(self) -> list[range]:
        """Return the page frames of node 0 and node 1, as far as there is RAM."""
        known = numpy.flatnonzero(self.dump.kpageflags != numpy.uint64(UNREAD))
        runs = numpy.split(known, numpy.flatnonzero(numpy.diff(known) != 1) + 1)
        return [range(int(run[0]) & -64, (int(run[-1]) | 63) + 1) for run in runs]
