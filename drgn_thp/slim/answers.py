# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the analysis says of a target, short enough to compare: whether a slim core gives the answers of its source."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass

from drgn import FaultError

from ..blocks import Block
from ..context import Context
from ..gates import Path, paths
from ..ledger import explain
from ..report import Question, Report

# Said of the target, not of the memory in it.
_OF_THE_TARGET = ("types", "notes", "incomplete")
_EXPLAINED = 64
"""Folios that are also explained one by one."""


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

    Folios of the kernel's own are counted by reason, but not described each: a large host has many millions of them.
    """
    question = Question(list(paths().values()), blocks, lambda reason: not reason.kernel_memory)
    report = Report(context, question, progress=progress)
    digests: list[tuple[str, str]] = []
    digest, name = hashlib.sha256(), ""
    pfns: list[int] = []
    refused: set[int] = set()
    summary = ""
    for record in report.records():
        if record["kind"] == "folio":
            refused.add(record["pfn"])
            if len(pfns) < _EXPLAINED and record["pfn"] not in pfns:
                pfns.append(record["pfn"])
        elif name:
            digests.append((name, digest.hexdigest()))
            digest, name = hashlib.sha256(), ""
        if record["kind"] == "block":
            name = f"memory at {record['start']:#x}-{record['end'] - 1:#x}"
        if record["kind"] == "summary":
            record = {key: value for key, value in record.items() if key not in _OF_THE_TARGET}
            summary = json.dumps(record)
        else:
            digest.update(json.dumps(record).encode())
    own = [path.of(context.kernel) for path in question.paths]
    explained = [_explained(context, pfn, own) for pfn in pfns]
    explanations = hashlib.sha256("\n".join(explained).encode()).hexdigest()
    folios = report.totals.folios
    return Answers(tuple(digests), summary, folios, len(refused), tuple(report.incomplete), explanations)


def _explained(context: Context, pfn: int, own: list[Path]) -> str:
    try:
        return "\n".join(map(str, explain(context, [f"pfn:{pfn:#x}"], own)))
    except FaultError:
        return f"{pfn:#x} cannot be read"
