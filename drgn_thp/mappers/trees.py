# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Who maps a folio, by the way that the kernel takes: from its anon_vma or address_space to the VMAs that may map it.

Each of these is only a candidate until its page table has been asked. What is mapped without the folio's knowledge, by
a driver or as a ring of io_uring, is not found so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy
from drgn import FaultError

from .. import formulas
from ..context import Context
from ..errors import UnknownLayout
from ..folios import Column, Folios
from ..formulas import PAGE_MAPPING_FLAGS
from ..ksm import KsmMappings, TooMany
from ..structs import Struct, read_word
from ..suspects import Suspects
from .lookup import Entry, Lookup
from .tables import Hits

MAX_VMAS = 1 << 18
"""In all trees that are looked into: each costs some 10 microseconds."""
MAX_CANDIDATES = 1 << 18
"""Places where page tables are asked."""
MAX_KEPT_VMAS = 1 << 16


@dataclass(frozen=True)
class _Tree:
    """VMAs of an anon_vma or address_space, as columns: addresses in bytes, ``pgoff`` in pages."""

    mm: Column
    start: Column
    end: Column
    pgoff: Column


@dataclass
class Reverse:
    """
    Looks for mappings of folios, one folio after another.

    :ivar owners: Numbers of the address spaces that are known
    :ivar unreadable: What could not be followed
    :ivar unknown: Mappings by address spaces of no process
    :ivar left: Folios that were not looked for, because there was too much to follow
    """

    context: Context
    lookup: Lookup
    owners: dict[int, int]
    max_vmas: int = MAX_VMAS
    max_candidates: int = MAX_CANDIDATES
    unreadable: int = 0
    unknown: int = 0
    left: int = 0
    _vmas: int = 0
    _candidates: int = 0
    _kept: dict[int, _Tree] = field(default_factory=dict)
    _kept_vmas: int = 0
    _ksm: KsmMappings | None = None

    def __post_init__(self) -> None:
        prog = self.context.prog
        # In v7.3 anonymous pages of private mappings of files are counted apart, from where there is no file.
        self._vma = Struct(
            prog,
            "struct vm_area_struct",
            ("vm_start", "vm_end", "vm_pgoff", "vm_mm"),
            ("__vm_anon_pgoff_lo", "__vm_anon_pgoff_hi"),
        )
        self._shared = Struct(prog, "struct vm_area_struct", ("shared.rb",)).offset("shared.rb")
        self._chain = Struct(prog, "struct anon_vma_chain", ("rb", "vma"))
        self._anon = Struct(prog, "struct anon_vma", ("rb_root.rb_root.rb_node",))
        self._file = Struct(prog, "struct address_space", ("i_mmap.rb_root.rb_node",))
        self._node = Struct(prog, "struct rb_node", ("rb_left", "rb_right"))

    def find(self, suspects: Suspects, f: Folios) -> Hits:
        """
        Return the entries for the folios of a table.

        :param suspects: These folios
        """
        anon, ksm, huge = formulas.PageAnon(f), formulas.PageKsm(f), formulas.PageHuge(f)
        cached = formulas.page_cache(f) | (huge & ~anon)
        pages, numbers = formulas.nr_pages(f), suspects.find(f.pfn)
        rows: list[tuple[int, Entry, int]] = []
        for i in range(len(f)):
            mapping, index = int(f.mapping[i]), int(f.index[i])
            # Until a08c7193e4f1 ("mm/filemap: remove hugetlb special casing in filemap.c") (in v6.7) the index of huge
            # pages was counted in huge pages. Both are tried: page tables tell.
            indexes = {index, index << int(f.order[i])} if huge[i] else {index}
            pfn, count = int(f.pfn[i]), int(pages[i])
            if self._vmas > self.max_vmas or self._candidates > self.max_candidates:
                self.left += 1
                continue
            try:
                if ksm[i]:
                    places = self._of_ksm(mapping)
                elif (anon[i] or cached[i]) and mapping & ~PAGE_MAPPING_FLAGS:
                    places = self._of_tree(mapping, bool(anon[i]), indexes, count)
                else:
                    continue
                rows += ((int(numbers[i]), entry, owner) for entry, owner in self._verified(places, pfn, count))
            except (FaultError, TooMany, UnknownLayout):
                self.unreadable += 1
        return self._hits(rows)

    # -- candidates ----------------------------------------------------------------------------------------------------

    def _of_tree(self, mapping: int, anon: bool, indexes: set[int], count: int) -> Iterator[tuple[int, int, int]]:
        tree, shift = self._tree(mapping & ~PAGE_MAPPING_FLAGS, anon), self.context.kernel.page_shift
        for index in indexes:
            if index + count >= 1 << 52:
                continue
            first, last = index, index + count
            inside = numpy.flatnonzero(
                (tree.pgoff < last) & (tree.pgoff + ((tree.end - tree.start) >> numpy.uint64(shift)) > first)
            )
            for i in inside.tolist():
                start, pgoff = int(tree.start[i]), int(tree.pgoff[i])
                low = start + (max(first - pgoff, 0) << shift)
                yield int(tree.mm[i]), low, min(start + (last - pgoff << shift), int(tree.end[i]))

    def _of_ksm(self, mapping: int) -> Iterator[tuple[int, int, int]]:
        if self._ksm is None:
            self._ksm = KsmMappings(self.context.prog, self.context.kernel.page_shift)
        size = 1 << self.context.kernel.page_shift
        for mm, address in self._ksm.places(mapping):
            yield mm, address, address + size

    def _tree(self, root: int, anon: bool) -> _Tree:
        tree = self._kept.get(root)
        if tree is None:
            tree = self._read_tree(root, anon)
            self._kept_vmas += len(tree.mm)
            if self._kept_vmas > MAX_KEPT_VMAS:
                self._kept.clear()
                self._kept_vmas = len(tree.mm)
            self._kept[root] = tree
        return tree

    def _read_tree(self, root: int, anon: bool) -> _Tree:
        top = self._anon.offset("rb_root.rb_root.rb_node") if anon else self._file.offset("i_mmap.rb_root.rb_node")
        prog, found, seen = self.context.prog, [], set[int]()
        pending = [read_word(prog, root + top)]
        while pending:
            node = pending.pop()
            if not node:
                continue
            self._vmas += 1
            if node in seen or self._vmas > self.max_vmas:
                raise FaultError("a tree of VMAs that is too large, or none", node)
            seen.add(node)
            vma = self._chain.read(node - self._chain.offset("rb"))["vma"] if anon else node - self._shared
            values = self._vma.read(vma)
            pgoff = values["vm_pgoff"]
            if anon and self._vma.has("__vm_anon_pgoff_lo"):
                pgoff = values["__vm_anon_pgoff_hi"] << 32 | values["__vm_anon_pgoff_lo"]
            if values["vm_start"] < values["vm_end"] and pgoff < 1 << 52:
                found.append([*(values[name] for name in ("vm_mm", "vm_start", "vm_end")), pgoff])
            links = self._node.read(node)
            pending += (links["rb_right"], links["rb_left"])
        columns = numpy.array(found, numpy.uint64).reshape(len(found), 4)
        return _Tree(columns[:, 0], columns[:, 1], columns[:, 2], columns[:, 3].astype(numpy.int64))

    # -- page tables ---------------------------------------------------------------------------------------------------

    def _verified(self, places: Iterator[tuple[int, int, int]], pfn: int, pages: int) -> list[tuple[Entry, int]]:
        """Return the entries at these places that lead to the folio, and whose they are; each once."""
        shift = self.context.kernel.page_shift
        found: dict[tuple[int, int], tuple[Entry, int]] = {}
        for mm, start, end in places:
            self._candidates += 1
            if self._candidates > self.max_candidates:
                raise FaultError("too many mappings", mm)
            owner = self.owners.get(mm)
            if owner is None:
                self.unknown += 1
                continue
            for entry in self.lookup.entries(mm, start, end):
                if entry.pfn < pfn + pages and entry.pfn + (1 << entry.shift - shift) > pfn:
                    found[owner, entry.address] = entry, owner
        return [found[key] for key in sorted(found)]

    def _hits(self, rows: list[tuple[int, Entry, int]]) -> Hits:
        seen: set[tuple[int, int]] = set()
        hits = Hits.join([])
        if not rows:
            return hits
        entries = [entry for _, entry, _ in rows]
        again = []
        for _, entry, owner in rows:
            # A table that two address spaces share has each of its entries once.
            place = (entry.table, entry.address & (1 << entry.shift + 9) - 1) if entry.table >= 0 else (~owner, 0)
            again.append(entry.table >= 0 and place in seen)
            seen.add(place)
        return Hits(
            numpy.array([number for number, _, _ in rows], numpy.int64),
            numpy.array([entry.pfn for entry in entries], numpy.int64),
            numpy.array([entry.shift for entry in entries], numpy.uint8),
            numpy.array([entry.state for entry in entries], numpy.uint8),
            numpy.array([entry.address for entry in entries], numpy.uint64),
            numpy.array([owner for _, _, owner in rows], numpy.int32),
            numpy.array([entry.table for entry in entries], numpy.int64),
            numpy.array(again, dtype=bool),
        )
