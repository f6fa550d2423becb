# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who maps some folios: the page tables of all processes, walked once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy
from drgn import FaultError

from .. import formulas
from ..context import Context
from ..errors import UnknownLayout
from ..folios import Column, Folios
from ..processes import Processes, Task
from ..suspects import Suspects
from .decoder import Decoder, State, decoder_of
from .reverse import are_few, find_reverse
from .tables import MAX_HITS, MAX_TABLES, Hits, Walk
from .vmas import Vma, Vmas

MAX_RECORDS = 64
"""Mappings of one folio that are shown; the rest is counted."""
_STATES = {State.MAPPED: "mapped", State.PROT_NONE: "prot-none", State.SPECIAL: "special", State.MOVING: "moving"}


@dataclass(frozen=True)
class Mapping:
    """
    A run of pages of one folio, mapped one after another by one address space.

    :ivar address: Of the process, of the first page
    :ivar page: The first page mapped, counted from the folio's head
    :ivar pages: How many
    :ivar entries: By how many entries of page tables: 1 for a whole huge page
    :ivar state: ``mapped``; ``prot-none``: not to be touched by the process; ``special``: without the folio's
        knowledge; ``moving``: a migration entry, which is to be a mapping again
    :ivar shared: By a page table of another address space; map counts count that once
    :ivar tasks: One of each thread group that uses the address space
    """

    mm: int
    tasks: tuple[Task, ...]
    vma: Vma | None
    address: int
    page: int
    pages: int
    entries: int
    state: str
    shared: bool

    @property
    def counted(self) -> bool:
        """Return whether map counts count it."""
        return self.state in ("mapped", "prot-none") and not self.shared

    def records(self) -> list[dict[str, Any]]:
        """Return a record for each process; names are as the target has them."""
        vma = self.vma
        place = {
            "address": self.address,
            "start": None if vma is None else vma.start,
            "end": None if vma is None else vma.end,
            "offset": vma.offset + self.address - vma.start if vma is not None and vma.is_file else None,
            "what": None if vma is None else vma.what,
            "page": self.page,
            "pages": self.pages,
            "state": self.state,
        }
        who: list[dict[str, Any]] = [
            {
                "pid": task.pid,
                "tgid": task.tgid,
                "comm": task.comm,
                "cgroup": task.cgroup,
                "container": None if task.container is None else str(task.container),
            }
            for task in self.tasks
        ] or [dict.fromkeys(("pid", "tgid", "comm", "cgroup", "container"))]
        return [{**task, **place} for task in who]


@dataclass
class Mappers:
    """
    What :func:`find_mappers` found.

    :ivar failures: What could not be read or was left out, in words: with any of these, mappings may be missing
    """

    suspects: Suspects
    hits: Hits
    mms: list[int]
    processes: Processes
    vmas: Vmas | None
    page_shift: int
    tables: int = 0
    failures: list[str] = field(default_factory=list)
    complete: bool = True
    """Whether all page tables were read."""

    def __post_init__(self) -> None:
        order = numpy.lexsort((self.hits.address, self.hits.again, self.hits.owner, self.hits.folio))
        self.hits = self.hits.select(order)

    def _rows(self, pfn: int) -> range:
        number = self.suspects.number(pfn)
        if number < 0:
            return range(0)
        low, high = self.hits.folio.searchsorted([number, number + 1])
        return range(int(low), int(high))

    def count(self, pfn: int) -> int:
        """Return how many entries of page tables map a folio, as its map count should."""
        rows = self._rows(pfn)
        part = slice(rows.start, rows.stop)
        return int(((self.hits.state[part] <= State.PROT_NONE) & ~self.hits.again[part]).sum())

    def counts(self) -> tuple[Column, Column]:
        """Return the heads of all suspects, and :meth:`count` of each."""
        counted = (self.hits.state <= State.PROT_NONE) & ~self.hits.again
        return self.suspects.start, numpy.bincount(self.hits.folio[counted], minlength=len(self.suspects))

    def of(self, pfn: int) -> list[Mapping]:
        """Return where a folio is mapped, by any page of it."""
        hits, result = self.hits, []
        rows = self._rows(pfn)
        i = rows.start
        while i < rows.stop:
            first, pages = i, 1 << int(hits.shift[i]) - self.page_shift
            mm = self.mms[int(hits.owner[i])]
            address, head = int(hits.address[i]), int(self.suspects.start[int(hits.folio[i])])
            vma = None if self.vmas is None else self.vmas.find(mm, address)
            i += 1
            while i < rows.stop and self._follows(first, i, pages, vma):
                pages += 1 << int(hits.shift[i]) - self.page_shift
                i += 1
            tasks = tuple(self.processes.by_mm.get(mm, ()))
            state, page = _STATES[State(int(hits.state[first]))], max(int(hits.pfn[first]) - head, 0)
            result.append(Mapping(mm, tasks, vma, address, page, pages, i - first, state, bool(hits.again[first])))
        return result

    def records(self, pfn: int) -> tuple[list[dict[str, Any]], int]:
        """Return records for a folio, and how many more there are."""
        records = [record for mapping in self.of(pfn) for record in mapping.records()]
        return records[:MAX_RECORDS], max(len(records) - MAX_RECORDS, 0)

    def _follows(self, first: int, i: int, pages: int, vma: Vma | None) -> bool:
        hits = self.hits
        distance = pages << self.page_shift
        address = int(hits.address[first]) + distance
        return bool(
            int(hits.address[i]) == address
            and int(hits.pfn[i]) == int(hits.pfn[first]) + pages
            and hits.owner[i] == hits.owner[first]
            and hits.state[i] == hits.state[first]
            and hits.again[i] == hits.again[first]
            and (vma is None or address < vma.end)
        )


def find_mappers(
    context: Context,
    pages: Sequence[int] | Suspects,
    max_tables: int = MAX_TABLES,
    max_hits: int = MAX_HITS,
    reverse: bool | None = None,
) -> Mappers:
    """
    Find who maps the folios of some pages. What cannot be read is counted in :attr:`Mappers.failures`.

    All page tables of all processes are read, each once; memory is that of the entries found.

    Of a few folios, where there are many page tables, or where no decoder for them is, it is found by the reverse
    mapping instead.

    :param pages: Page frame numbers of any pages of the folios; or the folios, where they are known
    :param reverse: Whether to go by the reverse mapping; chosen by what is quicker if None
    """
    failures: list[str] = []
    suspects = pages if isinstance(pages, Suspects) else _suspects(context, pages, failures)
    processes = context.processes
    failures += processes.failures
    mms = sorted(processes.by_mm)
    decoder = decoder_of(context.prog)
    result = Mappers(suspects, Hits.join([]), mms, processes, None, context.kernel.page_shift, 0, failures)
    try:
        result.vmas = Vmas(context.prog, 1 << context.kernel.page_shift)
    except UnknownLayout as error:
        failures.append(f"mappers: {error}")
    if result.vmas is None:
        result.complete = False
        return result
    if not len(suspects):
        return result
    if reverse is None:
        reverse = decoder is None or are_few(context, suspects, mms)
    if reverse and _back(context, decoder, result):
        return result
    if decoder is not None:
        _walk(context, decoder, result, max_tables, max_hits)
    return result


def _back(context: Context, decoder: Decoder | None, result: Mappers) -> bool:
    assert result.vmas is not None
    found = find_reverse(context, decoder, result.suspects, result.mms, result.vmas)
    result.hits = found.hits
    result.__post_init__()
    if decoder is not None and (found.folios is None or not _agree(result, found.folios)):
        return False
    result.failures += found.failures
    result.complete = not found.failures
    return True


def _agree(result: Mappers, f: Folios) -> bool:
    """Return whether mappings are as many as map counts say."""
    return len(f) == len(result.suspects) and bool((result.counts()[1] == formulas.folio_mapcount(f)).all())


def _suspects(context: Context, pfns: Sequence[int], failures: list[str]) -> Suspects:
    heads, pages, unreadable = [], [], 0
    known: dict[int, int] = {}
    for pfn in pfns:
        if pfn in known:
            continue
        try:
            rows = context.memmap.read_folio(pfn)
        except FaultError:
            unreadable += 1
            continue
        known[pfn] = int(rows.pfn[0])
        heads.append(known[pfn])
        pages.append(1 << int(rows.order[0]))
    if unreadable:
        failures.append(f"mappers: struct pages of {unreadable} folios could not be read")
    return Suspects(numpy.array(heads, numpy.int64), numpy.array(pages, numpy.int64))


def _walk(context: Context, decoder: Decoder, result: Mappers, max_tables: int, max_hits: int) -> None:
    assert result.vmas is not None
    tops, owners, unreadable = [], [], 0
    for i, mm in enumerate(result.mms):
        try:
            tops.append(context.virtual_to_pfn(result.vmas.mm(mm)["pgd"]))
            owners.append(i)
        except FaultError:
            unreadable += 1
    is_memory = context.sections.are_memory
    walk = Walk(context.prog, decoder, result.suspects, is_memory, max_tables=max_tables, max_hits=max_hits)
    hits = walk.walk(numpy.array(tops, numpy.int64))
    hits.owner = numpy.array(owners, numpy.int32)[hits.owner]
    result.tables = walk.tables
    for number, what in (
        (unreadable, "address spaces could not be read"),
        (walk.unreadable, "page tables could not be read"),
        (walk.wild, "entries lead to page tables where no memory is"),
        (walk.left, "page tables at least were left out: there are too many"),
        (walk.dropped, "mappings were left out: there are too many"),
    ):
        if number:
            result.failures.append(f"mappers: {number} {what}")
            result.complete = False
    result.hits = hits
    result.__post_init__()
