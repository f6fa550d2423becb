# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who holds what in a dump of the scene of holders: as the guest says, and as the walkers find it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy

from drgn_thp import formulas
from drgn_thp.context import Context
from drgn_thp.folios import Column, Folios
from drgn_thp.holders.balance import Sheet, sheets
from drgn_thp.holders.running import Findings, find_holders
from drgn_thp.suspects import Suspects
from drgn_thp.target import TargetSpec, open_target
from drgn_thp.walk import Walk
from tests.odd.cores import Core

from .dumps import PAGE_SIZE, Dump, Holding


@dataclass(frozen=True)
class Planted:
    """
    What the guest says of one holder.

    :ivar pids: Of all processes that have it; none if no process has it: what a CPU holds.
    :ivar descriptor: Process and descriptor of the one who planted it; the descriptor is None if there is none.
    """

    scenario: str
    kind: str
    pfn: int
    pids: frozenset[int]
    descriptor: tuple[int, int | None]
    gets: int | None
    pins: int | None


def planted(dump: Dump) -> list[Planted]:
    """Return each holder once."""
    by: dict[int, list[Holding]] = {}
    for holding in dump.holdings:
        by.setdefault(holding.number, []).append(holding)
    return [
        Planted(
            h.scenario,
            h.kind,
            h.pfn,
            frozenset(one.pid for one in same if one.pid),
            (h.pid, h.fd),
            h.gets,
            h.pins,
        )
        for h, *others in by.values()
        for same in [(h, *others)]
    ]


@dataclass
class Machine:
    """One dump, and all folios of it that have references which mm can count."""

    context: Context

    @staticmethod
    def of(dump: Dump, core: Path | None = None) -> Machine:
        """Open a dump, or another core of the same moment."""
        return Machine.open(core or dump.vmcore, *dump.symbols)

    @staticmethod
    def open(core: Path, *symbols: Path) -> Machine:
        """Open a dump with the debug information of its kernel."""
        own = "main" if symbols else "none"
        spec = TargetSpec(core=str(core), symbols=tuple(map(str, symbols)), default_symbols=own)
        return Machine(Context.of(open_target(spec).prog))

    @cached_property
    def tables(self) -> list[Folios]:
        return list(Walk(self.context).folios(formulas.is_user))

    @cached_property
    def suspects(self) -> Suspects:
        columns: list[tuple[Column, Column]] = [(f.pfn, formulas.nr_pages(f)) for f in self.tables]
        return Suspects(*(numpy.concatenate(parts) for parts in zip(*columns)))

    def head(self, pfn: int) -> int:
        """Return the first page of the folio that a page is in; -1 if that is none of a process or file."""
        number = self.suspects.number(pfn)
        return -1 if number < 0 else int(self.suspects.start[number])

    def find(self, off: Collection[str] = ()) -> Found:
        """Run the walkers, but for some."""
        findings = find_holders(self.context, self.suspects, off=off)
        return Found(findings, {sheet.pfn: sheet for f in self.tables for sheet in sheets(self.context, f, findings)})

    def find_everywhere(self, pfn: int) -> list[dict[str, Any]]:
        """Return who holds a page that may be the kernel's own: kind, and processes with descriptors."""
        findings = find_holders(self.context, Suspects(numpy.array([pfn]), numpy.array([1])))
        return [{"kind": held.kind, "descriptors": descriptors(findings, held.owner)} for held in findings.of(pfn)]


def descriptors(findings: Findings, owner: Any) -> list[tuple[int, int]]:
    """Return by which descriptors processes have the files of an owner."""
    return [(d.pid, d.fd) for file in (owner.file, *owner.more_files) for d in findings.files.descriptors(file)]


@dataclass
class Found:
    """What the walkers say, by the first page of a folio."""

    findings: Findings
    sheets: dict[int, Sheet]

    def unbalanced(self) -> dict[int, tuple[int, int]]:
        """Return references and pins that are left of each folio, where any are."""
        return {
            pfn: (sheet.unexplained, sheet.unexplained_pins)
            for pfn, sheet in self.sheets.items()
            if sheet.unexplained or sheet.unexplained_pins
        }

    def attributions(self) -> dict[int, list[dict[str, Any]]]:
        """Return the records of each folio that anybody holds."""
        return {pfn: sheet.records() for pfn, sheet in self.sheets.items() if sheet.holders}


def remove_user_and_free(machine: Machine, core: Core) -> None:
    """
    Leave out what ``makedumpfile -d 31`` does: pages of processes, of page caches, and free ones.

    What was free when the guest looked at its pages may be in use by the time of the dump, so the dump itself decides.
    """
    folios = machine.suspects
    holes = list(zip(folios.start.tolist(), folios.end.tolist()))
    memmap = machine.context.memmap
    for start, end in machine.context.sections.runs():
        pfn = start
        while pfn < end:
            behind = memmap.free_until(pfn, end)
            if behind > pfn:
                holes.append((pfn, behind))
            pfn = behind + 1
    merged: list[tuple[int, int]] = []
    for begin, stop in sorted(holes):
        if merged and merged[-1][1] >= begin:
            begin = merged.pop()[0]
        merged.append((begin, stop))
    core.remove((begin * PAGE_SIZE, (stop - begin) * PAGE_SIZE) for begin, stop in merged)
