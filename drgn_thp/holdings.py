# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a report says of holders besides each folio's own: who holds most, and what nobody was found for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from drgn import FaultError

from .census import BlockCensus
from .context import Context
from .folios import Column, Folios
from .holders import registry
from .holders.model import SOON
from .whose import Found, Record, Table, Whose

AT_ONCE = 1 << 18
"""Refused folios that wait for one pass over all holders and page tables; more of them take another pass."""
MAX_GROUPS = 1 << 16
SHOWN_GROUPS = 1000
NOTHING: Record = {"holders": None, "unexplained": None, "mappers": None, "more_mappers": None}
_CHAIN = ("confidence", "pid", "comm", "fd", "file")
_KEY = ("kind", "transient", "pid", "comm", "fd", "processes", "cpu", "device", "cgroup")


def advice(kinds: Iterable[str]) -> dict[str, str]:
    """Return for each kind of holder what makes it let go, and whether it does so by itself."""
    walkers = registry().walkers
    return {kind: walkers[kind].frees + SOON * walkers[kind].transient for kind in dict.fromkeys(kinds)}


@dataclass
class Refused:
    """
    A memory block's record, and its refused folios.

    :ivar first: The number of the first of them, for who counts them all
    :ivar table: Who holds and maps them; None if nobody was looked for
    :ivar census: What the block's record was made of, without the folios
    """

    block: Record
    folios: Folios | None
    first: int = 0
    table: Table | None = None
    census: BlockCensus | None = None

    @property
    def passing(self) -> Column | None:
        """Which of the folios are held by what lets go of them by itself alone; None if nobody was looked for."""
        return None if self.table is None else self.table.passing


@dataclass
class _Group:
    folios: int = 0
    pages: int = 0
    refs: int = 0
    pins: int = 0
    blocks: set[int] = field(default_factory=set)


@dataclass
class Holdings:
    """
    Who holds the refused folios of a report.

    Folios are held back until there are :data:`AT_ONCE` of them, or all: who holds them is looked for in one pass.

    :ivar problems: What kept from finding all holders and mappers, in words
    """

    context: Context
    search: bool = False
    """Whether to search the kernel's memory for what points to folios that are not explained."""
    problems: dict[str, None] = field(default_factory=dict)
    passes: int = 0
    folios: int = 0
    held: int = 0
    unexplained: int = 0
    unexplained_folios: int = 0
    overdrawn: int = 0
    overdrawn_folios: int = 0
    miscounted: int = 0
    """Folios that page tables map more or less often than their map counts say."""
    left_out: int = 0
    unread_allocations: int = 0
    _allocation: Record | None = None
    """Who allocated the last folio."""
    _groups: dict[tuple[Any, ...], _Group] = field(default_factory=dict)
    _chains: dict[tuple[Any, ...], int] = field(default_factory=dict)
    _last: int = -1

    def found(self, blocks: Iterable[Refused]) -> Iterator[Refused]:
        """Yield the same blocks, with who holds and maps their folios."""
        waiting: list[Refused] = []
        rows = 0
        for block in blocks:
            waiting.append(block)
            rows += 0 if block.folios is None else len(block.folios)
            if rows >= AT_ONCE:
                yield from self._find(waiting)
                waiting, rows = [], 0
        yield from self._find(waiting)

    def _find(self, waiting: list[Refused]) -> Iterator[Refused]:
        tables = [block.folios for block in waiting if block.folios is not None]
        whose = None
        if tables:
            try:
                whose = Whose(self.context, tables, self.search)
            except KeyboardInterrupt:
                self.problems["interrupted: nobody was looked for who holds folios"] = None
            else:
                self.passes += 1
                self.problems.update(dict.fromkeys(whose.problems))
        tables.clear()
        waiting.reverse()
        while waiting:  # what was handed out is not needed any more
            block = waiting.pop()
            if whose is not None and block.folios is not None:
                block.table = whose.table(block.folios)
            yield block

    def fields(self, record: Record, table: Table | None) -> Record:
        """Return what a folio's record has besides, and count it: once, though it has a record for each path."""
        found = None if table is None else table.of(record["pfn"])
        if record["pfn"] != self._last:
            self._last = record["pfn"]
            self._allocation = self._allocated(record["pfn"]) if self.search else None
            if found is not None:
                self._add(record, found)
        fields = NOTHING if found is None else found.fields()
        return {"chains": None, **fields, "allocation": self._allocation} if self.search else fields

    def _allocated(self, pfn: int) -> Record | None:
        """Return who allocated a page, as a record: the kernel's own pages have nobody else."""
        try:
            allocation = self.context.allocation(pfn)
        except FaultError:
            self.unread_allocations += 1
            return None
        return None if allocation is None else allocation.record()

    def _add(self, record: Record, found: Found) -> None:
        sheet = found.sheet
        self.folios += 1
        self.held += bool(sheet.holders)
        if sheet.overdrawn:
            self.overdrawn -= sheet.unexplained
            self.overdrawn_folios += 1
        elif sheet.unexplained > 0:
            self.unexplained += sheet.unexplained
            self.unexplained_folios += 1
        for chain in found.chains or ():
            key = (*(chain[name] for name in _CHAIN), tuple(chain["via"]))
            if key in self._chains or len(self._chains) < MAX_GROUPS:
                self._chains[key] = self._chains.get(key, 0) + 1
        self.miscounted += found.mapped is not None and found.mapped != record["total_mapcount"]
        seen = set()
        for holder in sheet.records():
            nobody = all(holder[name] is None for name in ("pid", "cpu", "device"))
            key = (*(holder[name] for name in _KEY), holder["owner"] if nobody else None)
            if key not in self._groups and len(self._groups) >= MAX_GROUPS:
                self.left_out += 1
                continue
            group = self._groups.setdefault(key, _Group())
            group.refs += holder["refs"]
            group.pins += holder["pins"]
            if key not in seen:
                seen.add(key)
                group.folios += 1
                group.pages += 1 << record["order"]
                if record["block"] is not None:
                    group.blocks.add(record["block"])

    @property
    def incomplete(self) -> list[str]:
        """What is missing or wrong, in words."""
        error = "they changed meanwhile" if self.context.live else "an error of drgn_thp"
        counted = (
            (self.overdrawn_folios, f"folios have more holders than references ({self.overdrawn} too many): {error}"),
            (self.miscounted, "folios are mapped by page tables more or less often than their map counts say"),
            (self.unread_allocations, "times it could not be read who allocated a folio"),
            (self.left_out, "times a folio's holder was left out of the table of holders: there are too many of them"),
        )
        return [*self.problems, *(f"{number} {what}" for number, what in counted if number)]

    def record(self) -> Record:
        """Return the totals, with those who hold most first."""
        shift = self.context.kernel.page_shift
        groups = [
            {
                **dict(zip((*_KEY, "owner"), key)),
                "folios": group.folios,
                "bytes": group.pages << shift,
                "refs": group.refs,
                "pins": group.pins,
                "blocks": sorted(group.blocks),
            }
            for key, group in self._groups.items()
        ]
        groups.sort(key=lambda group: (-group["bytes"], group["kind"], group["pid"] or 0, group["fd"] or 0))
        return {
            "folios": self.folios,
            "held": self.held,
            "unexplained": self.unexplained,
            "unexplained_folios": self.unexplained_folios,
            "over_attributed": self.overdrawn,
            "over_attributed_folios": self.overdrawn_folios,
            "groups": groups[:SHOWN_GROUPS],
            "more_groups": max(len(groups) - SHOWN_GROUPS, 0),
            "chains": self._chains_found() if self.search else None,
            "advice": advice(sorted({group["kind"] for group in groups})),
        }

    def _chains_found(self) -> list[Record]:
        found = [
            {**dict(zip(_CHAIN, key)), "via": list(key[-1]), "folios": folios} for key, folios in self._chains.items()
        ]
        found.sort(key=lambda chain: (("fair", "low", "none").index(chain["confidence"]), -chain["folios"]))
        return found[:SHOWN_GROUPS]
