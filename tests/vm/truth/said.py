# SPDX-License-Identifier: LGPL-2.1-or-later
"""What drgn_thp says of the folios that the workload marked."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
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

    context: Context
    folios: list[Folio]
    blocks: list[Record]
    summary: Record

    def of(self, pfns: Iterable[int]) -> list[Folio]:
        """Return the folios that these page frames are in, marked or not."""
        return _folios(self.context, {pfn: [] for pfn in pfns})


def read(dump: Dump) -> Said:
    """Open a dump, and judge the marked folios and all memory blocks."""
    spec = TargetSpec(core=str(dump.vmcore), symbols=(str(dump.vmlinux),), default_symbols="main")
    context = Context.of(open_target(spec).prog)
    wanted = [path.of(context.kernel) for path in paths().values()]
    report = list(Report(context, Question(wanted, listed=lambda reason: False)).records())
    by_pfn: dict[int, list[Mark]] = defaultdict(list)
    for mark in dump.marks:
        by_pfn[mark.pfn].append(mark)
    return Said(
        context,
        _folios(context, by_pfn),
        [record for record in report if record["kind"] == "block"],
        next(record for record in report if "folios" in record),
    )


def _folios(context: Context, by_pfn: Mapping[int, list[Mark]]) -> list[Folio]:
    marks: dict[int, list[Mark]] = defaultdict(list)
    parts = {}
    for pfn, own in by_pfn.items():
        rows = context.memmap.read_folio(pfn)
        head = int(rows.pfn[0])
        parts[head] = rows
        marks[head] += own
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
