# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The report: a stream of records, blocks and their refused folios first, the summary last.

It is a stream so that a report on a large host need never be in memory; who wants a table makes one of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Callable

from .blocks import Block
from .census import BlockCensus
from .confirm import Confirmation, Label, Looks, check_looks
from .context import Context
from .describe import SCHEMA, Describer, Record
from .folios import Folios
from .gates import Path, Reason, find_reason
from .holdings import Holdings, Refused
from .hotplug import Comparison, list_blocks
from .scan import Scan
from .verdicts import without


@dataclass(frozen=True)
class Question:
    """What the user wants to know."""

    paths: Sequence[Path]
    blocks: Callable[[Block], bool] | None = None
    """Which memory blocks to look at; all if None."""
    listed: Callable[[Reason], bool] = lambda reason: True
    """For which reasons to list the refused folios themselves; counts are of all."""
    looks: Looks | None = None
    """How often to look again at the refused folios that are listed; of a live target only."""
    holders: bool = False
    """Whether to find out who holds and who maps the refused folios that are listed."""
    search: bool = False
    """With ``holders``: whether to search the kernel's memory for what points to those that are not explained."""


@dataclass
class Totals:
    """What the summary adds up."""

    blocks: int = 0
    folios: int = 0
    unreadable_pages: int = 0
    poisoned_pages: int = 0
    hole_pages: int = 0
    offline_blocks: int = 0
    derived_blocks: int = 0
    undecided: int = 0
    changing: int = 0
    changed_blocks: int = 0
    new_blocks: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    wrongly_refused: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, dict[str, int]] = field(default_factory=dict)
    interrupted: bool = False
    confirmed: dict[str, dict[str, int]] = field(default_factory=dict)
    """Of each path, how many folios were found to be what when they were looked at again."""
    held: dict[str, int] = field(default_factory=dict)
    """Of each path, how many of those that are persistent have references that stay."""
    unconfirmed: int = 0
    """Folios that were to be looked at again, but were not."""

    def add(self, census: BlockCensus) -> None:
        self.blocks += 1
        self.folios += census.folios - census.counted_before
        self.unreadable_pages += census.unreadable
        self.poisoned_pages += census.poisoned
        self.hole_pages += census.holes
        self.offline_blocks += not census.block.online
        self.derived_blocks += census.block.derived
        self.undecided += census.undecided
        self.changing += census.changing
        self.changed_blocks += census.changed
        for name, counts in census.paths.items():
            self.refused[name] = self.refused.get(name, 0) + counts.refused - counts.counted_before
            self.wrongly_refused[name] = self.wrongly_refused.get(name, 0) + counts.wrongly
            reasons = self.reasons.setdefault(name, {})
            for reason, number in counts.reasons.items():
                reasons[reason] = reasons.get(reason, 0) + number


class Report:
    """One question put to one target. Iterate over :meth:`records` once; after that the outcome is known."""

    def __init__(
        self,
        context: Context,
        question: Question,
        types_source: str = "",
        notes: Iterable[str] = (),
        progress: Callable[[int], None] = lambda pages: None,
        slim: bool = False,
    ) -> None:
        """
        :param slim: Whether the target is a slim core: what it lacks was left out on purpose
        :raises BadArgument: if a dump is to be looked at again
        """
        if question.looks is not None:
            check_looks(context, question.looks)
        self.context = context
        self.question = question
        self.types_source = types_source
        self.totals = Totals()
        self.holdings = Holdings(context, question.search) if question.holders else None
        blocks, block_notes = list_blocks(context)
        self.blocks = [block for block in blocks if question.blocks is None or question.blocks(block)]
        self._all_derived = any(block.derived for block in blocks)
        self.notes = [*notes, *block_notes]
        self.progress = progress
        self.noted: Callable[[Folios], None] = lambda f: None
        """Called with the refused folios of each block, before their records are made."""
        self._missing = "are not recorded in this slim core" if slim else "could not be read"

    @property
    def pages(self) -> int:
        """Page frames that the scan will go through."""
        return sum(block.pages for block in self.blocks if block.online)

    @property
    def incomplete(self) -> list[str]:
        """What is missing from the answer, in words; empty if nothing is."""
        totals, doubts = self.totals, self.context.doubts
        counted: tuple[tuple[int, str], ...] = (
            (totals.unreadable_pages, f"struct pages {self._missing}"),
            (totals.derived_blocks, "memory blocks are derived from sections, their state or size is a guess"),
            (len(doubts.unreadable_pageblocks), f"sections whose pageblock flags {self._missing}"),
            (len(doubts.unreadable_buffers), "folios whose buffer heads could not be followed"),
            (len(doubts.unreadable_ksm), "pages of KSM whose lists of mappings could not be followed"),
            (self.context.mappings.unreadable, f"address_spaces {self._missing}"),
            (totals.undecided, "folios may be refused for what their address_spaces, buffer heads or KSM would say"),
        )
        if self.context.live:
            counted += (
                (totals.changing, "folios contradicted themselves however often they were read: not judged"),
                (totals.changed_blocks, "memory blocks went on- or offline, or away, while the report was made"),
                (totals.new_blocks, "memory blocks came while the report was made: not looked at"),
                (totals.unconfirmed, "refused folios were not looked at again"),
            )
        missing = [f"{number} {what}" for number, what in counted if number]
        if self.holdings is not None:
            missing += self.holdings.incomplete
        if totals.interrupted:
            missing.append("interrupted: blocks after this were not looked at")
        return missing + doubts.notes

    def records(self) -> Iterator[Record]:
        """Yield the records of the report."""
        describer = Describer(self.context)
        scan = Scan(self.context, self.question.paths, self.question.listed, self.progress, describer.in_virtio_mem)
        blocks: Iterable[Refused] = self._blocks(scan, describer)
        confirmation = None
        if self.question.looks is not None:
            confirmation = Confirmation(self.context, scan.paths, self.question.looks)
            blocks = self._looked_again(confirmation, blocks)
        if self.holdings is not None:
            blocks = self.holdings.found(blocks)
        for refused in blocks:
            yield self._settled(describer, scan, refused)
            yield from self._listed(describer, scan, refused, confirmation)
        yield from describer.devices()
        yield self.summary()

    def _blocks(self, scan: Scan, describer: Describer) -> Iterator[Refused]:
        """Yield the record of each block, and those of its refused folios that may be listed."""
        comparison = Comparison(self.context)
        try:
            for census in scan.blocks(self.blocks):
                self.totals.add(census)
                if not census.changed:
                    comparison.told(census.block)
                counts = replace(census, refused=None, obstacles=None)
                yield Refused(describer.block(census), census.refused, census=counts)
            self._compare(comparison)
        except KeyboardInterrupt:
            self.totals.interrupted = True

    def _settled(self, describer: Describer, scan: Scan, refused: Refused) -> Record:
        """Return the record of a block, after who holds its folios was found."""
        passing = refused.passing
        if passing is None or not passing.any() or refused.folios is None or refused.census is None:
            return refused.block
        return {**refused.block, "paths": describer.paths(without(refused.census, scan.paths, refused.folios, passing))}

    def _looked_again(self, confirmation: Confirmation, blocks: Iterable[Refused]) -> list[Refused]:
        """Return the same, after all folios that may be listed have been looked at again."""
        found = []
        for refused in blocks:
            if refused.folios is not None:
                refused.first = confirmation.add(refused.folios)
            found.append(refused)
        if not self.totals.interrupted:
            with suppress(KeyboardInterrupt):
                confirmation.run()
        return found

    def _listed(
        self, describer: Describer, scan: Scan, refused: Refused, confirmation: Confirmation | None
    ) -> Iterator[Record]:
        """Yield the records of the refused folios of a block."""
        f = refused.folios
        if f is None:
            return
        self.noted(f)
        numbers = {path.name: i for i, path in enumerate(scan.paths)}
        places = {} if confirmation is None else {pfn: refused.first + i for i, pfn in enumerate(f.pfn.tolist())}
        for record in describer.folios(f, scan.paths, refused.block["block"], refused.passing):
            if record["verdict"] == "refused" and self.question.listed(find_reason(record["reason"])):
                if confirmation is not None:
                    number = places[record["pfn"]]
                    label = confirmation.label(number, numbers[record["path"]])
                    stays = None if record["extra"] is None else confirmation.stays(number)
                    record["confirmed"] = self._count(record["path"], label, bool(stays))
                    record["confirmed_extra"] = stays
                if self.holdings is not None:
                    record.update(self.holdings.fields(record, refused.table))
                yield record

    def _count(self, path: str, label: Label | None, held: bool) -> str | None:
        if label is None:
            self.totals.unconfirmed += 1
            return None
        word: str = label.value
        if path not in self.totals.confirmed:
            self.totals.confirmed[path] = {label.value: 0 for label in Label}
        self.totals.confirmed[path][word] += 1
        if held and label is Label.PERSISTENT:
            self.totals.held[path] = self.totals.held.get(path, 0) + 1
        return word

    def _compare(self, comparison: Comparison) -> None:
        """Compare the blocks of a live target with what they are by now."""
        if self.context.live:
            wanted = self.question.blocks
            now = [block for block in comparison.blocks_now() if wanted is None or wanted(block)]
            changed, self.totals.new_blocks = comparison.outcome(now)
            self.totals.changed_blocks += changed

    def summary(self) -> Record:
        """Return the last record: totals, what the target is, and what is not known about it."""
        kernel, totals = self.context.kernel, self.totals
        racy: dict[str, Any] = {
            "compares_with": "page_mapcount" if kernel.racy_check.old else "total_mapcount",
            "decided_by": kernel.racy_check.source,
            "doubtful": kernel.racy_check.doubtful,
        }
        return {
            "schema": SCHEMA,
            "kind": "summary",
            "release": kernel.release,
            "types": self.types_source,
            "racy_check": racy,
            "paths": [path.name for path in self.question.paths],
            "blocks": totals.blocks,
            "offline_blocks": totals.offline_blocks,
            "folios": totals.folios,
            "refused": totals.refused,
            "wrongly_refused": totals.wrongly_refused,
            "reasons": {name: dict(sorted(counts.items())) for name, counts in sorted(totals.reasons.items())},
            "unreadable_pages": totals.unreadable_pages,
            "poisoned_pages": totals.poisoned_pages,
            "hole_pages": totals.hole_pages,
            "changing_folios": totals.changing,
            "changed_blocks": totals.changed_blocks,
            "new_blocks": totals.new_blocks,
            "confirm": self._confirm(),
            "holders": None if self.holdings is None else self.holdings.record(),
            "batched_references": len(self.context.batches.entries),
            "incomplete": self.incomplete,
            "notes": [*self.notes, *self.context.virtio_mem.notes],
        }

    def _confirm(self) -> Record | None:
        """Return what came of looking again."""
        looks = self.question.looks
        if looks is None:
            return None
        none = {label.value: 0 for label in Label}
        paths = {path.name: self.totals.confirmed.get(path.name, none) for path in self.question.paths}
        held = {path.name: self.totals.held.get(path.name, 0) for path in self.question.paths}
        return {"looks": looks.number, "interval": float(looks.interval), "paths": paths, "held": held}
