# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a scan counts: the folios of a memory block, by path and reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Callable

import numpy

from . import formulas
from .blocks import Block
from .context import needs_more
from .folios import Column, Folios
from .gates import Gate, Path, Reason


@dataclass
class PathCensus:
    """How many folios one path refuses in a block, by reason."""

    refused: int = 0
    refused_pages: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    """Folios by primary reason."""
    durations: dict[str, int] = field(default_factory=dict)
    wrongly: int = 0
    counted_before: int = 0
    """Of these, how many reach into the block from an earlier one that counted them."""

    def add(self, gate: Gate, folios: int, pages: int) -> None:
        """Count folios that a gate refuses before any other does."""
        self.refused += folios
        self.refused_pages += pages
        self.reasons[gate.reason.name] = self.reasons.get(gate.reason.name, 0) + folios
        self.durations[gate.duration.value] = self.durations.get(gate.duration.value, 0) + folios
        if gate.wrongly:
            self.wrongly += folios


@dataclass
class Obstacles:
    """Folios that one path refuses, in ascending order: where each begins, its pages, the index of the gate."""

    pfn: Column
    pages: Column
    gate: Column

    @staticmethod
    def concatenate(parts: Sequence[Obstacles]) -> Obstacles:
        """Return all of some, in ascending order."""
        columns = [
            numpy.concatenate([numpy.zeros(0, numpy.int64), *(getattr(part, name) for part in parts)])
            for name in ("pfn", "pages", "gate")
        ]
        order = numpy.argsort(columns[0], kind="stable")
        return Obstacles(*(column[order] for column in columns))


@dataclass
class BlockCensus:
    """What was found in a memory block."""

    block: Block
    paths: dict[str, PathCensus]
    folios: int = 0
    """Folios in use: of processes, files or the kernel."""
    counted_before: int = 0
    """Of these, how many reach into the block from an earlier one that counted them."""
    huge_beyond: bool = False
    """A huge page reaches beyond the end of the block."""
    pages: int = 0
    """Their pages in the block."""
    holes: int = 0
    """Page frames without struct pages, or whose section is not online."""
    poisoned: int = 0
    unreadable: int = 0
    undecided: int = 0
    """Folios of which something cannot be read that may refuse them: their address_space, their buffer heads."""
    changing: int = 0
    """Folios of a live target that contradicted themselves however often they were read: not judged."""
    changed: bool = False
    """The block went on- or offline, or away, each time it was read: nothing is said of what is in it."""
    cma: bool = False
    """A pageblock is CMA's. has_unmovable_pages() refuses it whatever is in it, free pages, too."""
    isolated: bool = False
    """A pageblock is isolated just now: set_migratetype_isolate() refuses it likewise."""
    zones: dict[tuple[int, int], int] = field(default_factory=dict)
    """Pages in use by node and zone."""
    refused: Folios | None = None
    """The refused folios that were asked for, in ascending order."""
    hugetlb_used: int = 0
    hugetlb_free: int = 0
    """Pages of hugetlb folios: what replaces them has to be on the same node."""
    obstacles: Obstacles | None = None
    """All that alloc_contig_range() refuses, where it was asked for which they are."""

    @property
    def free(self) -> int:
        """Pages that are nobody's: free, on per-CPU lists, or tails of non-compound kernel allocations."""
        return self.block.pages - self.holes - self.poisoned - self.unreadable - self.pages


class Tally:
    """What verdicts mean for the counts of a block: one entry per class of folios that look alike."""

    def __init__(self, paths: Sequence[Path], keep: Callable[[Reason], bool]) -> None:
        self.paths = paths
        self._keep = keep
        self.worth: list[tuple[int, tuple[int, int], tuple[Gate | None, ...], bool, bool]] = []
        """
        Pages, place (node and zone), the gate that refuses first on each path, and whether that is undecided, or the
        folio is changing.
        """
        self.kept = numpy.zeros(0, dtype=bool)
        """Refused for a reason whose folios are wanted themselves, not just their number."""
        self.alone = numpy.zeros(0, dtype=bool)
        """Folios that must be judged one by one, whatever they look like."""
        self.individual = numpy.zeros(0, dtype=bool)
        """Kept or alone: more is to be done than counting."""
        self.hugetlb = numpy.zeros(0, numpy.int64)
        """Pages of a hugetlb folio, negative if it is free."""
        self.contig = numpy.zeros(0, numpy.int16)
        """Which gate of the path contig refuses first; -1 for none."""

    def judge(self, f: Folios, final: bool = False, again: Column | None = None) -> None:
        """
        Judge folios, each of which stands for a class, and note what they are worth.

        :param final: Whether a folio that must be judged alone stands for itself only
        :param again: Which of them are to be read again, each for itself
        """
        pages = numpy.where(formulas.is_free(f), 0, formulas.nr_pages(f)).tolist()
        places = zip(f.node.tolist(), f.zone.tolist())
        refusing = []
        kept = numpy.zeros(len(f), dtype=bool)
        for path in self.paths:
            primary = numpy.where(f.changing, -1, path.judge(f).primary)
            if path.name == "contig":
                self.contig = primary
            gates: list[Gate | None] = [*path.gates, None]  # the last stands for "ok", which is -1
            refusing.append([gates[index] for index in primary.tolist()])
            kept |= numpy.array([gate is not None and self._keep(gate.reason) for gate in gates])[primary]
        self.worth = list(zip(pages, places, zip(*refusing), f.undecided.tolist(), f.changing.tolist()))
        self.alone = (needs_more(f) if again is None else needs_more(f) | again) & (not final)
        self.kept = kept & ~self.alone
        self.individual = self.kept | self.alone
        huge = numpy.where(formulas.PageHuge(f), formulas.nr_pages(f), 0)
        self.hugetlb = numpy.where(f.refcount > 0, huge, -huge)
        if not len(self.contig):
            self.contig = numpy.full(len(f), -1, numpy.int16)

    def extend(self, other: Tally, number: int) -> None:
        """Append the first classes of another tally."""
        self.worth += other.worth[:number]
        self.kept = numpy.concatenate((self.kept, other.kept[:number]))
        self.alone = numpy.concatenate((self.alone, other.alone[:number]))
        self.contig = numpy.concatenate((self.contig, other.contig[:number]))
        self.hugetlb = numpy.concatenate((self.hugetlb, other.hugetlb[:number]))
        self.individual = self.kept | self.alone

    def credit(self, census: BlockCensus, weights: Column) -> None:
        """Add ``weights[i]`` folios of class i to a block; those that are judged alone come by themselves."""
        classes = weights.nonzero()[0]
        tables = [census.paths[path.name] for path in self.paths]
        for number, folios in zip(classes.tolist(), weights[classes].tolist()):
            pages, place, gates, undecided, changing = self.worth[number]
            if self.hugetlb[number] > 0:
                census.hugetlb_used += folios * int(self.hugetlb[number])
            else:
                census.hugetlb_free -= folios * int(self.hugetlb[number])
            if not pages or self.alone[number]:
                continue
            census.folios += folios
            census.pages += folios * pages
            census.undecided += folios * undecided
            census.changing += folios * changing
            census.zones[place] = census.zones.get(place, 0) + folios * pages
            for table, gate in zip(tables, gates):
                if gate is not None:
                    table.add(gate, folios, folios * pages)

    def trim(self, census: BlockCensus, number: int, outside: int, again: bool) -> None:
        """
        Take back what of a folio that was credited is not in the block.

        :param outside: How many of its pages are in other blocks
        :param again: Whether one of these has counted the folio
        """
        pages, place, gates, *_ = self.worth[number]
        if self.hugetlb[number] > 0:
            census.hugetlb_used -= outside
        elif self.hugetlb[number] < 0:
            census.hugetlb_free -= outside
        if not pages or self.alone[number]:
            return
        census.pages -= outside
        census.zones[place] -= outside
        census.counted_before += again
        for path, gate in zip(self.paths, gates):
            if gate is not None:
                census.paths[path.name].refused_pages -= outside
                census.paths[path.name].counted_before += again
