# SPDX-License-Identifier: LGPL-2.1-or-later
"""A dump of the lab, opened by the package; and what the tests ask of it more than once."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property

import numpy
from drgn import Program

from drgn_thp.chunk import Chunk
from drgn_thp.context import Context
from drgn_thp.folios import Column, Folios
from drgn_thp.rows import Rows, concatenate
from drgn_thp.target import TargetSpec, open_target
from tests.vm.lab import UNREAD, Dump, Mark

from .pagetables import Mapped, walk


class Opened:
    """
    One dump, its Program and its context.

    :ivar version: Of the kernel: what differs between kernels in these tests is told by it, never by the package.
    """

    def __init__(self, dump: Dump) -> None:
        self.dump = dump
        found = re.match(r"(\d+)\.(\d+)", dump.release)
        assert found is not None
        self.version = (int(found[1]), int(found[2]))
        self.prog: Program = open_target(spec_of(dump)).prog
        self.context = Context.of(self.prog)

    def chunks(self) -> Iterator[Chunk]:
        """Yield all struct pages of online memory, in the pieces in which a scan reads them."""
        memmap = self.context.memmap
        for start, end in self.context.sections.runs():
            for pfn in range(start, end, memmap.pages_per_chunk):
                yield memmap.read(pfn, min(memmap.pages_per_chunk, end - pfn))

    @cached_property
    def rows(self) -> Rows:
        """Every folio that the bulk decoder finds, wherever it is."""
        memmap = self.context.memmap
        return concatenate([memmap.rows(chunk, memmap.live(chunk).rows) for chunk in self.chunks()])

    @cached_property
    def folios(self) -> Folios:
        """The same as a table."""
        return self.context.folios(self.rows)

    @cached_property
    def position(self) -> dict[int, int]:
        """Where in :attr:`folios` a folio is, by the page frame of its head."""
        return {pfn: i for i, pfn in enumerate(self.folios.pfn.tolist())}

    @cached_property
    def folio_of_page(self) -> dict[int, int]:
        """Which of :attr:`folios` a page belongs to, by page frame: by the orders that the package decoded."""
        f = self.folios
        large = numpy.flatnonzero(f.order > 0).tolist()
        tails = {pfn: i for i in large for pfn in range(int(f.pfn[i]) + 1, int(f.pfn[i]) + (1 << int(f.order[i])))}
        return {**self.position, **tails}

    @cached_property
    def mapped(self) -> Mapped:
        """What the page tables of all processes map."""
        return walk(self.prog)

    @cached_property
    def held(self) -> dict[int, list[Mark]]:
        """The marks of folios on which the workload has a reference that mm knows nothing of, by their head."""
        result: dict[int, list[Mark]] = {}
        for mark in self.dump.marks:
            if mark.held:
                result.setdefault(self.head_by_guest(mark.pfn), []).append(mark)
        return result

    def head_by_guest(self, pfn: int) -> int:
        """Return the head of a page's folio, as /proc/kpageflags of the guest tells it."""
        flags = self.dump.kpageflags
        while int(flags[pfn]) >> KPF_COMPOUND_TAIL & 1:
            pfn -= 1
        return pfn

    def guest(self, pfn: Column, column: Column) -> tuple[Column, Column]:
        """
        Return one of the guest's own arrays at some page frames, and a mask of those that it has.

        The guest read what /proc/iomem calls System RAM. The rest of a section (holes of the firmware's) it left out.
        """
        inside = pfn < len(column)
        values = numpy.full(len(pfn), UNREAD, numpy.uint64)
        values[inside] = column[pfn[inside]]
        return values, values != numpy.uint64(UNREAD)


KPF_COMPOUND_TAIL = 16


def spec_of(dump: Dump) -> TargetSpec:
    """Return how to open a dump. What drgn might find of the machine that runs the tests is left out."""
    return TargetSpec(core=str(dump.vmcore), symbols=(str(dump.vmlinux),), default_symbols="main")


def arguments_of(dump: Dump) -> list[str]:
    """Return the same as options of the command."""
    return ["-c", str(dump.vmcore), "-s", str(dump.vmlinux), "--main-symbols"]
