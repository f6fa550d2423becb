# SPDX-License-Identifier: LGPL-2.1-or-later
"""What drgn_thp says of the folios that the workload marked."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from drgn_thp.context import Context
from drgn_thp.describe import Describer
from drgn_thp.gates import paths
from drgn_thp.report import Question, Report
from drgn_thp.rows import concatenate
from drgn_thp.target import TargetSpec, open_target
from tests.vm.dumps import Dump, Mark

Record = dict[str, Any]


@dataclass(frozen=True)
class Folio:
    """
    One folio of the dump that some marks are on.

    :ivar said: The records of ``drgn-thp folio``, by path.
    """

    pfn: int
    order: int
    marks: tuple[Mark, ...]
    said: dict[str, Record]

    @property
    def scenarios(self) -> tuple[str, ...]:
        """Whose it is: usually one."""
        return tuple(sorted({mark.scenario for mark in self.marks}))

    @property
    def frames(self) -> range:
        """Its page frames."""
        return range(self.pfn, self.pfn + (1 << self.order))


@dataclass(frozen=True)
class Said:
    """All that drgn_thp says of a dump."""

    folios: list[Folio]
    blocks: list[Record]
    summary: Record


def read(dump: Dump) -> Said:
    """Open a dump, and judge the marked folios and all memory blocks."""
    spec = TargetSpec(core=str(dump.vmcore), symbols=(str(dump.vmlinux),), default_symbols="main")
    context = Context.of(open_target(spec).prog)
    wanted = [path.of(context.kernel) for path in paths().values()]
    report = list(Report(context, Question(wanted, listed=lambda reason: False)).records())
    return Said(
        _folios(context, dump), [r for r in report if r["kind"] == "block"], next(r for r in report if "folios" in r)
    )


def _folios(context: Context, dump: Dump) -> list[Folio]:
    marks: dict[int, list[Mark]] = defaultdict(list)
    parts = {}
    for mark in dump.marks:
        rows = context.memmap.read_folio(mark.pfn)
        head = int(rows.pfn[0])
        parts[head] = rows
        marks[head].append(mark)
    if not parts:
        return []  # a kernel that lacks every scenario of the scene
    said: dict[int, dict[str, Record]] = defaultdict(dict)
    judges = [path.of(context.kernel) for path in paths().values()]
    for record in Describer(context).folios(context.folios(concatenate(list(parts.values()))), judges, None):
        said[record["pfn"]][record["path"]] = record
    return [
        Folio(pfn, next(iter(records.values()))["order"], tuple(marks[pfn]), records)
        for pfn, records in sorted(said.items())
    ]
