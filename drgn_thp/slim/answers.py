# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the analysis says of a target, short enough to compare: whether a slim core gives the answers of its source."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
from drgn import FaultError

from ..blocks import Block
from ..context import Context
from ..describe import Describer
from ..facts import FACTS, FLAGS
from ..folios import Folios
from ..gates import Path, Reason, paths
from ..ledger import explain
from ..report import Question, Report
from ..scan import Scan

# Said of the target, not of the memory in it.
_OF_THE_TARGET = ("types", "notes", "incomplete")
_EXPLAINED = 64
"""Folios that are also explained one by one."""
_ALLOCATIONS = 1 << 14
"""Refused folios of which is kept who allocated them, on kernels that record it: each takes a millisecond."""


@dataclass(frozen=True)
class Answers:
    """
    :ivar blocks: A name for each memory block, and a digest of all that was said of it and its folios.
    :ivar incomplete: What was missing, in words.
    """

    blocks: tuple[tuple[str, str], ...]
    summary: str
    folios: int
    refused: int
    incomplete: tuple[str, ...]
    explanations: str

    def difference(self, other: Answers) -> str:
        """Return in words where the other ones differ; empty if they do not."""
        if [name for name, _ in self.blocks] != [name for name, _ in other.blocks]:
            return "the memory blocks are others"
        for (name, mine), (_, theirs) in zip(self.blocks, other.blocks):
            if mine != theirs:
                return f"{name} differs"
        if len(self.incomplete) != len(other.incomplete):
            return f"what is missing differs: {'; '.join(other.incomplete or self.incomplete)}"
        if self.summary != other.summary:
            return "the summary differs"
        return "" if self.explanations == other.explanations else "explanations of single folios differ"


def ask(context: Context, blocks: Callable[[Block], bool] | None, progress: Callable[[int], None]) -> Answers:
    """
    Run the analysis on all paths, and explain some of the folios that it finds refused.

    What the report would say of refused folios is compared as columns: describing each takes longer than all the rest.
    Those that text only counts are counted by reason, as there: a large host has many millions of them.
    """
    question = Question(list(paths().values()), blocks, Reason.is_listed)
    report = Report(context, question, progress=progress)
    describer = Describer(context)
    scan = Scan(context, question.paths, question.listed, progress, describer.in_virtio_mem)
    digests: list[tuple[str, str]] = []
    pfns: list[int] = []
    refused = 0
    for census in scan.blocks(report.blocks):
        report.totals.add(census)
        record = describer.block(census)
        digest = hashlib.sha256(json.dumps(record).encode())
        if census.refused is not None:
            _add(digest, census.refused, scan.paths)
            for pfn in census.refused.pfn[: max(_ALLOCATIONS - refused, 0)].tolist():
                digest.update(_allocated(context, pfn).encode())
            refused += len(census.refused)
            pfns += census.refused.pfn[: _EXPLAINED - len(pfns)].tolist()
        digests.append((f"memory at {record['start']:#x}-{record['end'] - 1:#x}", digest.hexdigest()))
    summary = {name: value for name, value in report.summary().items() if name not in _OF_THE_TARGET}
    summary["mappings"] = [kind.name for kind in context.mappings.kinds]
    explained = [_explained(context, pfn, scan.paths) for pfn in pfns]
    explanations = hashlib.sha256("\n".join(explained).encode()).hexdigest()
    return Answers(
        tuple(digests),
        json.dumps(summary),
        report.totals.folios,
        refused,
        tuple(report.incomplete),
        explanations,
    )


def _add(digest: Any, f: Folios, own: Sequence[Path]) -> None:
    """Add all that is known of some folios to a digest."""
    names = [fact.name for fact in FACTS] + [flag.name for flag in FLAGS]
    columns = [getattr(f, name) for name in ("pfn", "order", "type", "mapping_kind", "batches", *names)]
    for path in own:
        verdicts = path.judge(f)
        columns += [verdicts.primary, verdicts.mask]
    for column in columns:
        digest.update(numpy.ascontiguousarray(column).tobytes())


def _allocated(context: Context, pfn: int) -> str:
    try:
        return str(context.allocation(pfn))
    except FaultError:
        return f"{pfn:#x} cannot be read"


def _explained(context: Context, pfn: int, own: Sequence[Path]) -> str:
    try:
        return "\n".join(map(str, explain(context, [f"pfn:{pfn:#x}"], own)))
    except FaultError:
        return f"{pfn:#x} cannot be read"
