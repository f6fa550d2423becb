# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Everything about a target that is not in a folio's own struct pages, read once; and its columns for a table of folios.

One of these exists per Program: ``Context.of(prog)``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy
from drgn import FaultError, Program, ProgramFlags
from drgn.helpers.linux.mm import follow_phys

from .batches import Batches, read_batches
from .blocks import sections_per_block
from .buffers import Buffers
from .errors import UnknownLayout
from .folios import Column, Folios
from .formulas import PAGE_MAPPING_KSM, PageKsm, folio_mapcount, page_cache
from .hugetlb import Hstate, hugetlb_columns, read_hstates
from .kernel import Kernel
from .ksm import KsmMappings, TooMany
from .layout import Layout, read_layout
from .mapping_kinds import MigrateOp
from .mappings import Mappings
from .memmap import Memmap
from .page_owner import Allocation, PageOwner
from .processes import Processes, read_processes
from .resources import Resources, read_resources
from .rows import Rows
from .sections import OddPageblocks, Pageblocks, Sections, read_pageblocks, read_sections
from .settle import Settler, contradicts
from .traits import read_kernel
from .virtio_mem import VirtioMem, read_virtio_mem
from .zones import Zone, check_zone_bits, movable_nodes, nodes_among_movable, read_zones


@dataclass
class Doubts:
    """What could not be read or decided so far: shown in every report, never folded into "fine"."""

    unreadable_pageblocks: set[int] = field(default_factory=set)
    """Numbers of sections whose pageblock flags could not be read."""
    unreadable_buffers: set[int] = field(default_factory=set)
    """Page frames whose buffer heads could not be followed."""
    unreadable_ksm: set[int] = field(default_factory=set)
    """Page frames of KSM of which it cannot be told whether KSM knows all who map them."""
    notes: list[str] = field(default_factory=list)


@dataclass
class Context:
    """One target, opened."""

    prog: Program
    layout: Layout
    kernel: Kernel
    memmap: Memmap
    sections: Sections
    zones: list[Zone]
    zones_missing: bool
    """Whether there may be zones that could not be read."""
    pageblocks: Pageblocks
    mappings: Mappings
    batches: Batches
    hstates: list[Hstate]
    zero_pfns: tuple[int, ...]
    huge_zero_pfns: tuple[int, ...]
    resources: Resources
    doubts: Doubts
    live: bool = False
    """Whether it goes on while it is read."""
    _buffers: Buffers | None = None
    _ksm: KsmMappings | None = None
    _odd_pageblocks: dict[int, OddPageblocks | None] = field(default_factory=dict)

    @staticmethod
    def of(prog: Program, racy_check: str | None = None) -> Context:
        """
        Return the context of a Program, made when first asked for.

        :param racy_check: ``"old"`` or ``"new"``: the form of the check in isolate_migratepages_block(), if not to be
            found out
        :raises UnknownLayout: if this kernel's types are not understood
        """
        key = ("drgn_thp", racy_check)
        context = prog.cache.get(key)
        if context is None:
            context = prog.cache[key] = _read_context(prog, racy_check)
        assert isinstance(context, Context)
        return context

    @staticmethod
    def fresh(prog: Program, racy_check: str | None = None) -> Context:
        """
        Return the context of a Program for another question.

        Of a live target everything may have changed; and what could not be read for the last question is not missing
        from this one.

        :param racy_check: As for :meth:`of`
        """
        context = Context.of(prog, racy_check)
        doubts = context.doubts
        doubted = (
            doubts.unreadable_pageblocks
            or doubts.unreadable_buffers
            or doubts.unreadable_ksm
            or context.mappings.unreadable
        )
        if doubted or prog.flags & ProgramFlags.IS_LIVE:
            del prog.cache["drgn_thp", racy_check]
        return Context.of(prog, racy_check)

    @property
    def end_pfn(self) -> int:
        """The first page frame number behind all memory that has struct pages."""
        return (int(self.sections.number[-1]) + 1) * self.sections.pages_per_section

    def virtual_to_pfn(self, address: int) -> int:
        """
        Return the page frame behind a kernel address.

        :raises FaultError: if it is not mapped
        """
        return _virtual_to_pfn(self.prog, self.kernel.page_shift, address)

    def special_pfns(self) -> list[int]:
        """Return the page frames whose verdict does not follow from their struct pages alone, in ascending order."""
        special = {entry.pfn for entry in self.batches.entries}
        return sorted(special.union(self.zero_pfns, self.huge_zero_pfns))

    def folios(self, rows: Rows) -> Folios:
        """Return the table of some folios with every column that formulas and gates may ask for."""
        f = self.memmap.folios(rows)
        untyped = (f.type == 0) | (f.type == 5)
        is_pointer = untyped & (f.mapping != 0) & ((f.mapping & numpy.uint64(3)) == 0)
        kinds = self.mappings.kinds_of(numpy.where(untyped, f.mapping, numpy.uint64(0)), is_pointer)
        f.attach(mapping_kind=kinds, **self.mappings.columns(kinds))
        f.attach(**hugetlb_columns(self.hstates, f))
        f.attach(
            kernel_memory_on_node=~numpy.isin(f.node, self._movable_nodes),
            others_all_movable=numpy.isin(f.node, self._nodes_among_movable),
        )
        f.attach(
            batches=self._batches(rows.pfn),
            zero_page=_any_of(rows.pfn, self.zero_pfns),
            huge_zero=_any_of(rows.pfn, self.huge_zero_pfns),
            virtio_mem=self._in_virtio_mem(rows.pfn),
            **self._pageblock_columns(rows.pfn),
        )
        busy, unreadable = self._buffer_busy(f)
        unknown = page_cache(f) & (f.migrate_op == MigrateOp.UNKNOWN)
        lost, unfollowed = self._ksm_lost(f)
        f.attach(buffer_busy=busy, ksm_lost=lost, undecided=unknown | unreadable | unfollowed)
        return f

    def read_folio(self, pfn: int) -> Folios:
        """
        Return the table of one folio, by the number of any page frame of it.

        :raises FaultError: if a struct page cannot be read
        """
        return self.folios(self.settled(self.memmap.read_folio(pfn)))

    def settled(self, rows: Rows) -> Rows:
        """Return folios of a live target with those read again that contradict themselves; of a dump, as they are."""
        if not self.live:
            return rows
        bad = numpy.flatnonzero(contradicts(self.layout, rows, self.folios(rows)))
        return self.settler.settle(rows, bad, self._anew) if len(bad) else rows

    def _anew(self, rows: Rows) -> Folios:
        """Return the table of some folios, with the batches as they are now."""
        self.read_batches()
        return self.folios(rows)

    def read_batches(self) -> None:
        """Read the per-CPU batches of a live target again: they change more often than anything else."""
        self.batches = read_batches(self.prog, self.layout)
        self.__dict__.pop("_batched", None)

    @cached_property
    def settler(self) -> Settler:
        """What reads folios of a live target again."""
        return Settler(self.memmap)

    @cached_property
    def processes(self) -> Processes:
        """All tasks; what could not be read of them is in its ``failures``."""
        try:
            return read_processes(self.prog)
        except UnknownLayout as error:
            return Processes(self.prog, [], [str(error)])

    @cached_property
    def _page_owner(self) -> PageOwner | None:
        try:
            return PageOwner(self.prog, self.sections)
        except UnknownLayout as error:
            self.doubts.notes.append(f"who allocated pages is not known: {error}")
            return None

    def allocation(self, pfn: int) -> Allocation | None:
        """
        Return what page_owner recorded of a page; None if it recorded nothing.

        :raises FaultError: if it cannot be read
        """
        return None if self._page_owner is None else self._page_owner.of(pfn)

    @cached_property
    def virtio_mem(self) -> VirtioMem:
        """The devices of virtio-mem."""
        size = (sections_per_block(self.prog) or 1) * self.sections.pages_per_section << self.kernel.page_shift
        return read_virtio_mem(self.prog, self.kernel, self.resources, self.memmap, size)

    @cached_property
    def _batched(self) -> tuple[Column, Column]:
        """The page frames in batches, and how often."""
        counts = sorted(self.batches.counts().items())
        return numpy.array([pfn for pfn, _ in counts], numpy.int64), numpy.array([number for _, number in counts])

    def _batches(self, pfn: Column) -> Column:
        pfns, counts = self._batched
        if not len(pfns):
            return numpy.zeros(len(pfn), numpy.int64)
        position = numpy.minimum(numpy.searchsorted(pfns, pfn), len(pfns) - 1)
        return numpy.where(pfns[position] == pfn, counts[position], 0)

    # Of a node that could not be read, which the report says, nothing is known against it.

    @cached_property
    def _movable_nodes(self) -> list[int]:
        return movable_nodes(self.zones, self.kernel.zone_movable)

    @cached_property
    def _nodes_among_movable(self) -> list[int]:
        return [] if self.zones_missing else nodes_among_movable(self.zones, self.kernel.zone_movable)

    def _in_virtio_mem(self, pfn: Column) -> Column:
        result = numpy.zeros(len(pfn), dtype=bool)
        for start, end in self.resources.virtio_mem:
            result |= (pfn >= start) & (pfn < end)
        return result

    def _pageblock_columns(self, pfn: Column) -> dict[str, Column]:
        """Return which folios lie in pageblocks that are CMA's, or isolated."""
        columns = {name: numpy.zeros(len(pfn), dtype=bool) for name in ("pageblock_cma", "pageblock_isolated")}
        section = pfn // self.sections.pages_per_section
        for number in sorted(set(section.tolist())):
            odd = self.odd_pageblocks(number)
            if odd is not None:
                rows = numpy.flatnonzero(section == number)
                index = (pfn[rows] % self.sections.pages_per_section) >> self.pageblocks.pageblock_order
                columns["pageblock_cma"][rows], columns["pageblock_isolated"][rows] = (
                    odd.cma[index],
                    odd.isolated[index],
                )
        return columns

    def odd_pageblocks(self, section_number: int) -> OddPageblocks | None:
        """Return the pageblocks of a section if any is CMA's or isolated; None if not, or (counted) if unreadable."""
        try:
            return self._odd_pageblocks[section_number]
        except KeyError:
            odd = self._read_odd_pageblocks(section_number)
        if not self.live:  # there, they may change
            self._odd_pageblocks[section_number] = odd
        return odd

    def forget_pageblocks(self, start_pfn: int, end_pfn: int) -> None:
        """Forget what could not be read of the pageblocks of a range of memory that has gone."""
        size = self.sections.pages_per_section
        self.doubts.unreadable_pageblocks -= set(range(start_pfn // size, (end_pfn - 1) // size + 1))

    def _read_odd_pageblocks(self, section_number: int) -> OddPageblocks | None:
        index = self.sections.index(section_number * self.sections.pages_per_section)
        if index is None:
            return None
        try:
            return self.pageblocks.odd(index)
        except FaultError:
            self.doubts.unreadable_pageblocks.add(section_number)
            return None

    def _buffer_busy(self, f: Folios) -> tuple[Column, Column]:
        """Return which folios have buffers in use, and of which that cannot be known."""
        result, unreadable = numpy.zeros(len(f), dtype=bool), numpy.zeros(len(f), dtype=bool)
        suspects = numpy.flatnonzero(needs_buffers(f))
        if len(suspects) and self._buffers is None:
            self._buffers = Buffers(self.prog)
            self.doubts.notes += [f"recently used buffers not read: {failure}" for failure in self._buffers.failures]
        for row in suspects:
            assert self._buffers is not None
            try:
                result[row] = self._buffers.busy(int(f.private[row]))
            except FaultError:
                self.doubts.unreadable_buffers.add(int(f.pfn[row]))
                unreadable[row] = True
        return result, unreadable

    def _ksm_lost(self, f: Folios) -> tuple[Column, Column]:
        """Return which folios are mapped where KSM does not know of it, and of which that cannot be known."""
        result, unreadable = numpy.zeros(len(f), dtype=bool), numpy.zeros(len(f), dtype=bool)
        suspects = numpy.flatnonzero(needs_ksm(f))
        if len(suspects) and self._ksm is None:
            self._ksm = KsmMappings(self.prog, self.kernel.page_shift)
        mapcount = folio_mapcount(f)
        for row in suspects:
            assert self._ksm is not None
            number = int(mapcount[row])
            try:
                result[row] = self._ksm.known(int(f.mapping[row]), int(f.pfn[row]), number) < number
            except (FaultError, TooMany):
                self.doubts.unreadable_ksm.add(int(f.pfn[row]))
                unreadable[row] = True
        return result, unreadable


_NO_ZERO_PAGE = "a zero page is taken for any other page of the kernel's"
_DEFAULT = "its default is assumed"


def needs_buffers(f: Folios) -> Column:
    """Return which folios' buffer heads have to be looked at."""
    return page_cache(f) & f.private_flag & (f.migrate_op == MigrateOp.BUFFER_NOREFS)


def needs_ksm(f: Folios) -> Column:
    """Return which folios' lists of mappings in KSM have to be followed."""
    return PageKsm(f) & (f.mapping != PAGE_MAPPING_KSM) & (folio_mapcount(f) > 0)


def needs_more(f: Folios) -> Column:
    """Return which folios' verdicts do not follow from what they look like."""
    return needs_buffers(f) | needs_ksm(f)


def _any_of(pfn: Column, pfns: tuple[int, ...]) -> Column:
    result = numpy.zeros(len(pfn), dtype=bool)
    for one in pfns:
        result |= pfn == one
    return result


def _pfn_of(prog: Program, layout: Layout, page: int) -> int | None:
    offset = page - layout.vmemmap
    if page and offset >= 0 and offset % layout.page_struct_size == 0:
        return offset // layout.page_struct_size
    return None


def _value(prog: Program, name: str, doubts: Doubts, otherwise: str = _NO_ZERO_PAGE) -> int | None:
    try:
        return int(prog[name].value_())
    except FaultError as error:
        doubts.notes.append(f"{name} cannot be read ({error}): {otherwise}")
    except (LookupError, TypeError):  # TypeError: a function, such as zero_pfn() of 7.x
        pass
    return None


def _virtual_to_pfn(prog: Program, page_shift: int, address: int) -> int:
    # By the page tables: virt_to_pfn() gives nonsense for what is not in the direct map (kernel image, modules).
    return int(follow_phys(prog["init_mm"].address_of_(), address)) >> page_shift


def _zero_pfns(prog: Program, doubts: Doubts) -> tuple[int, ...]:
    for name in ("zero_page_pfn", "zero_pfn"):  # zero_pfn is a function in 7.x
        pfn = _value(prog, name, doubts)
        if pfn is not None:
            return (pfn,)
    return ()


def _huge_zero_pfns(prog: Program, layout: Layout, doubts: Doubts) -> tuple[int, ...]:
    # huge_zero_page became huge_zero_folio in v6.10.
    pages = (_value(prog, name, doubts) for name in ("huge_zero_folio", "huge_zero_page"))
    pfns = (_pfn_of(prog, layout, page) for page in pages if page)
    return tuple(pfn for pfn in pfns if pfn is not None)


def _read_context(prog: Program, racy_check: str | None) -> Context:
    layout = read_layout(prog)
    kernel = read_kernel(prog, layout, racy_check)
    memmap = Memmap(prog, layout, kernel)
    sections = read_sections(prog)
    zones, failures = read_zones(prog, layout)
    doubts = Doubts(notes=failures + check_zone_bits(memmap, sections, zones))
    batches = read_batches(prog, layout)
    resources = read_resources(prog, kernel.page_shift)
    if resources.failure:
        doubts.notes.append(f"iomem_resource: {resources.failure}: virtio-mem's own pages and holes are not recognised")
    doubts.notes += [f"per-CPU batch not read: {failure}" for failure in batches.failures]
    try:
        hstates = read_hstates(prog, kernel, zones)
    except FaultError as error:
        hstates = []
        doubts.notes.append(f"the pools of huge pages cannot be read ({error}): their pages are taken for immovable")
    _value(prog, "sysctl_compact_unevictable_allowed", doubts, _DEFAULT)  # a trait of the kernel
    if sections.unreadable:
        doubts.notes.append(f"{sections.unreadable} roots of the section table could not be read: memory is missing")
    if kernel.racy_check.doubtful:
        doubts.notes.append(
            f"form of the check in isolate_migratepages_block() assumed from {kernel.racy_check.source}; "
            "use --racy-check to force one"
        )
    return Context(
        prog,
        layout,
        kernel,
        memmap,
        sections,
        zones,
        bool(failures),
        read_pageblocks(sections, layout, kernel),
        Mappings(prog, layout),
        batches,
        hstates,
        _zero_pfns(prog, doubts),
        _huge_zero_pfns(prog, layout, doubts),
        resources,
        doubts,
        bool(prog.flags & ProgramFlags.IS_LIVE),
    )
