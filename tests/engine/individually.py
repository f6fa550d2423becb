# SPDX-License-Identifier: LGPL-2.1-or-later
"""A census made the plain way: every folio judged for itself, with no classes, no memo, no queues."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy

from drgn_thp import formulas
from drgn_thp.blocks import Block, online_ranges, read_blocks
from drgn_thp.census import BlockCensus
from drgn_thp.context import Context
from drgn_thp.folios import Column, Folios
from drgn_thp.gates import Path, paths
from drgn_thp.rows import Rows, concatenate
from drgn_thp.scan import Scan

from .opened import Opened


@dataclass
class Plain:
    """What a census says of a block, in a form that compares and prints."""

    folios: int = 0
    pages: int = 0
    zones: Counter[tuple[int, int]] = field(default_factory=Counter)
    refused: dict[str, Any] = field(default_factory=dict)
    """By path: reasons, durations, pages and wrong refusals."""
    listed: list[int] = field(default_factory=list)
    """Heads of the folios that are refused on any path."""


def all_paths(context: Context) -> list[Path]:
    """Return every path as the target's kernel has it."""
    return [path.of(context.kernel) for path in paths().values()]


def blocks_of(context: Context) -> list[Block]:
    """Return every memory block."""
    return read_blocks(context.prog, context.sections)[0]


def every_folio(context: Context, block: Block) -> Rows:
    """Return all folios of a block, read in pieces of the size that the scan uses."""
    memmap, parts = context.memmap, []
    for start, end in online_ranges(block, context.sections.runs()):
        for pfn in range(start, end, memmap.pages_per_chunk):
            chunk = memmap.read(pfn, min(memmap.pages_per_chunk, end - pfn))
            parts.append(memmap.rows(chunk, memmap.live(chunk).rows))
    return concatenate(parts)


def judged(f: Folios, judges: list[Path]) -> Plain:
    """Judge every folio of a block for itself."""
    result = Plain()
    used = ~formulas.is_free(f)
    pages: Column = numpy.where(used, formulas.nr_pages(f), 0)
    result.folios, result.pages = int(numpy.count_nonzero(used)), int(pages.sum())
    for node, zone, count in zip(f.node.tolist(), f.zone.tolist(), pages.tolist()):
        if count:
            result.zones[node, zone] += count
    anywhere = numpy.zeros(len(f), dtype=bool)
    for path in judges:
        primary = path.judge(f).primary
        refused = numpy.flatnonzero((primary >= 0) & used)
        anywhere[refused] = True
        gates = [path.gates[int(primary[row])] for row in refused]
        result.refused[path.name] = {
            "refused": len(refused),
            "pages": int(pages[refused].sum()),
            "reasons": Counter(gate.reason.name for gate in gates),
            "durations": Counter(gate.duration.value for gate in gates),
            "wrongly": sum(gate.wrongly for gate in gates),
        }
    result.listed = f.pfn[anywhere].tolist()
    return result


def scanned(census: BlockCensus) -> Plain:
    """Return the same from the census of a scan."""
    return Plain(
        census.folios,
        census.pages,
        Counter(census.zones),
        {
            name: {
                "refused": counts.refused,
                "pages": counts.refused_pages,
                "reasons": Counter(counts.reasons),
                "durations": Counter(counts.durations),
                "wrongly": counts.wrongly,
            }
            for name, counts in census.paths.items()
        },
        [] if census.refused is None else census.refused.pfn.tolist(),
    )


class WholeScan(Scan):
    """Reads free memory, too: where that is damaged, what is seen in it depends on where reading begins."""

    def _range(self, open_: Any, start: int, end: int) -> None:
        size = self.context.memmap.pages_per_chunk
        for pfn in range(start, end, size):
            self._after_free = False
            super()._range(open_, pfn, min(pfn + size, end))


def differences(context: Context, blocks: list[Block], kind: type[Scan] = Scan) -> list[str]:
    """Compare a scan of some blocks with judging every folio of them for itself, and return what differs, in words."""
    judges = all_paths(context)
    result = []
    for census in kind(context, judges).blocks(blocks):
        scan, plain = scanned(census), judged(context.folios(every_folio(context, census.block)), judges)
        for name in ("folios", "pages", "zones", "refused", "listed"):
            one, other = getattr(scan, name), getattr(plain, name)
            if one != other:
                result.append(f"block {census.block.id}: {name}: scan {_brief(one, other)}")
    return result


def _brief(scan: Any, plain: Any) -> str:
    """Return two values, without what is the same in both."""
    if isinstance(scan, dict):
        keys = [key for key in {**scan, **plain} if scan.get(key) != plain.get(key)]
        return "; ".join(f"{key}: {_brief(scan.get(key), plain.get(key))}" for key in keys)
    if isinstance(scan, list):
        more, less = sorted(set(scan) - set(plain))[:10], sorted(set(plain) - set(scan))[:10]
        return f"has more {list(map(hex, more))}, lacks {list(map(hex, less))}"
    return f"{scan}, individually {plain}"


def of_opened(opened: Opened, block: Block) -> Folios:
    """Return the folios of a block from those that were read already."""
    inside = (opened.folios.pfn >= block.start_pfn) & (opened.folios.pfn < block.end_pfn)
    return opened.folios.select(inside)
