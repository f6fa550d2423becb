# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rows and blocks as records: plain dictionaries whose field names are the schema (``docs/schema.md``)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy

from . import formulas
from .blocks import Block
from .census import BlockCensus
from .context import Context
from .folios import Column, Folios
from .gates import Gate, Path, find_path
from .pagetype import NAMES, PageType
from .unplug import Fate, Tried, predict, predict_all
from .verdicts import block_verdict, duration, unreadable
from .virtio_mem import Device
from .zones import Zone

SCHEMA = "drgn-thp/1"
Record = dict[str, Any]

# Flags in the order of the list that dump_page() prints; those of the first tail page last.
SHOWN_FLAGS = [
    "locked",
    "writeback",
    "referenced",
    "uptodate",
    "dirty",
    "lru",
    "head",
    "active",
    "workingset",
    "owner_priv_1",
    "reserved",
    "private_flag",
    "private_2",
    "reclaim",
    "swapbacked",
    "unevictable",
    "mlocked",
    "hwpoison",
    "anon_exclusive",
    "double_map",
    "large_rmappable",
    "has_hwpoisoned",
    "partially_mapped",
]


class Describer:
    """Makes records of one target's folios and blocks."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self._contig = find_path("contig").of(context.kernel).gates
        self._unplugs: dict[int, list[Tried]] = {}
        """By device, each of its memory blocks that was described."""

    def in_virtio_mem(self, block: Block) -> bool:
        """Return whether a memory block is of a device of virtio-mem."""
        return self._device(block) is not None

    def _device(self, block: Block) -> Device | None:
        return self.context.virtio_mem.device(block.start_pfn << self.context.kernel.page_shift)

    def zone_name(self, index: int) -> str | None:
        """Return a zone's name without ZONE_; None for pages that belong to none (holes in boot memory)."""
        names = self.context.layout.zone_names
        return names[index] if index < len(names) else None

    def folios(
        self, f: Folios, paths: list[Path], block: int | None, passing: Column | None = None
    ) -> Iterator[Record]:
        """
        Yield a record for every folio and path, folio by folio.

        :param paths: As the target's kernel has them
        :param passing: Which of them are held by what lets go of them by itself alone, if anybody asked
        """
        columns = {
            "refcount": f.refcount,
            "total_mapcount": formulas.folio_mapcount(f),
            "page_mapcount": formulas.page_mapcount(f),
            "expected": formulas.folio_expected_ref_count(f),
            "extra": formulas.extra_references(f),
            "pins": formulas.pins(f),
            "batches": f.batches,
        }
        # For pages of the kernel's own, mm says nothing of how many references there should be.
        known = formulas.is_user(f)
        verdicts = [(path, path.judge(f)) for path in paths]
        judged = [(path.name, v.gates, v.mask.tolist(), v.primary.tolist()) for path, v in verdicts]
        types, flags = self._types(f), self._flags(f)
        # Lists, as there is an object of each element to make: from arrays that takes several times as long.
        numbers = {name: column.tolist() for name, column in columns.items()}
        pfns, orders, nodes, zones = (column.tolist() for column in (f.pfn, f.order, f.node, f.zone))
        mappings, undecided, changing = (c.tolist() for c in (f.mapping_kind, f.undecided, f.changing))
        passes = [False] * len(f) if passing is None else passing.tolist()
        for i, expected in enumerate(known.tolist()):
            common: Record = {"pfn": pfns[i], "order": orders[i]}
            facts: Record = {name: column[i] for name, column in numbers.items()}
            if not expected:
                facts["expected"] = facts["extra"] = None
            facts["flags"] = flags[i]
            facts["type"] = types[i]
            facts["mapping"] = self.context.mappings.kinds[mappings[i]].name or None
            facts["block"] = block
            facts["zone"] = self.zone_name(zones[i])
            facts["node"] = nodes[i]
            for path, gates, masks, primaries in judged:
                word = _verdict(gates, masks[i], primaries[i], undecided[i], changing[i], passes[i])
                yield {"schema": SCHEMA, "kind": "folio", **common, "path": path, **word, **facts}

    def _flags(self, f: Folios) -> list[list[str]]:
        """Return the names of each folio's flags; a bit with several meanings has the name that applies."""
        result: list[list[str]] = [[] for _ in range(len(f))]
        swapcache = formulas.folio_test_swapcache(f)
        for name in SHOWN_FLAGS:
            column = getattr(f, name)
            if name == "anon_exclusive":
                column = column & formulas.PageAnon(f)
            word = name.replace("_flag", "")
            for i in numpy.flatnonzero(column):
                result[i].append("swapcache" if name == "owner_priv_1" and swapcache[i] else word)
        return result

    def _types(self, f: Folios) -> list[str]:
        """Return what each page is: its page type, or whose it is."""
        result = [NAMES[int(t)] for t in f.type]
        ordered = (
            ("free", formulas.is_free(f) & (f.type == PageType.NONE)),
            ("reserved", f.reserved & (f.type == PageType.NONE)),
            ("ksm", formulas.PageKsm(f) & (f.type == PageType.NONE)),
            ("anon", formulas.PageAnon(f) & (f.type == PageType.NONE)),
            ("file", formulas.page_cache(f) & (f.type == PageType.NONE)),
            ("swapcache", formulas.folio_test_swapcache(f)),
            ("movable-ops", formulas.page_has_movable_ops(f) & (f.type == PageType.NONE)),
            ("truncated", f.lru & (f.type == PageType.NONE)),
        )
        for i, name in enumerate(result):
            if name == NAMES[PageType.NONE]:
                result[i] = next((word for word, column in ordered if column[i]), "kernel")
        return result

    def block(self, census: BlockCensus) -> Record:
        """Return the record of a memory block."""
        block = census.block
        shift = self.context.kernel.page_shift
        zones = sorted(census.zones, key=lambda place: (-census.zones[place], place)) or [
            (zone.node, zone.index)
            for zone in self.context.zones
            if zone.start_pfn < block.end_pfn and block.start_pfn < zone.end_pfn
        ]
        return {
            "schema": SCHEMA,
            "kind": "block",
            "block": block.id,
            "start": block.start_pfn << shift,
            "end": block.end_pfn << shift,
            "start_pfn": block.start_pfn,
            "end_pfn": block.end_pfn,
            "state": block.state,
            "derived": block.derived,
            "zones": [name for name in (self.zone_name(zone) for _, zone in zones) if name],
            "nodes": sorted({node for node, _ in zones}),
            "folios": census.folios,
            "used_pages": census.pages,
            "free_pages": census.free,
            "hole_pages": census.holes,
            "poisoned_pages": census.poisoned,
            "unreadable_pages": census.unreadable,
            "changing_folios": census.changing,
            "changed": census.changed,
            "virtio_mem": self._virtio_mem(census),
            "paths": self.paths(census),
        }

    def paths(self, census: BlockCensus) -> Record:
        """Return what of a memory block's record each path makes of it."""
        paths: Record = {}
        for name, counts in census.paths.items():
            verdict, word = block_verdict(self.context, census, name)
            paths[name] = {
                "verdict": verdict or None,
                "answer": word or None,
                "refused": counts.refused,
                "refused_pages": counts.refused_pages,
                "wrongly_refused": counts.wrongly,
                "reasons": dict(sorted(counts.reasons.items(), key=lambda item: (-item[1], item[0]))),
                "durations": dict(sorted(counts.durations.items())),
            }
        return paths

    def _virtio_mem(self, census: BlockCensus) -> Record | None:
        """Return what virtio-mem has of a memory block, and what it could unplug of it; None if it is not its."""
        block, device = census.block, self._device(census.block)
        if device is None:
            return None
        shift = self.context.kernel.page_shift
        start, size = block.start_pfn << shift, block.pages << shift
        if size > device.end - device.start:
            return None  # a damaged list of blocks: there may be any number of sub-blocks in it
        unread = unreadable(self.context, census)
        found = predict(
            device, block.start_pfn, block.end_pfn, shift, block.online, census.obstacles, self._contig, unread
        )
        unit = min(device.unit, size)
        state = device.state(start)
        partial = bool(found.count(Fate.UNPLUGGED))
        rank = device.rank(state, partial, block.online)
        found.unit = unit
        tried = Tried(rank, start, block.id, found, census.hugetlb_used << shift, census.hugetlb_free << shift)
        self._unplugs.setdefault(device.start, []).append(tried)
        return {
            "device": device.start,
            "state": state,
            "sub_block_size": unit,
            "sub_blocks": size // unit,
            "plugged": size // unit - found.count(Fate.UNPLUGGED),
            "verdict": found.verdict,
            "answer": found.answer or None,
            "unpluggable": found.unpluggable,
            "map": found.map,
            "kept_by": [
                {
                    "sub_block": keeper.sub_block,
                    "start": start + keeper.sub_block * unit,
                    "reasons": keeper.reasons,
                    "folios": keeper.folios,
                }
                for keeper in found.keepers
            ],
        }

    def devices(self) -> Iterator[Record]:
        """Yield a record of each device of virtio-mem, after its memory blocks have been described."""
        shift = self.context.kernel.page_shift
        for device in self.context.virtio_mem.devices:
            blocks = self._unplugs.get(device.start, [])
            nodes = {zone.node for zone in self.context.zones if self._overlaps(zone, device)}
            present = sum(zone.present_pages for zone in self.context.zones if zone.node in nodes)
            looked_at = sum(len(block.prediction.fates) * block.prediction.unit for block in blocks)
            outcome = predict_all(blocks, self.context.kernel, present << shift > looked_at)
            yield {
                "schema": SCHEMA,
                "kind": "virtio_mem",
                "start": device.start,
                "end": device.end,
                "source": device.source,
                "mode": device.mode,
                "node": device.node,
                "unit": device.unit,
                "device_block_size": device.device_block_size,
                "usable_size": device.usable_size,
                "plugged_size": device.plugged_size,
                "requested_size": device.requested_size,
                "unplug_online": device.unplug_online,
                "broken": device.broken,
                "blocks": len(blocks),
                "unpluggable": outcome.at_most,
                "unpluggable_at_least": outcome.at_least,
                "gives_up_at": outcome.gives_up_at,
            }

    def _overlaps(self, zone: Zone, device: Device) -> bool:
        shift = self.context.kernel.page_shift
        return zone.start_pfn << shift < device.end and device.start < zone.end_pfn << shift


def _verdict(
    gates: tuple[Gate, ...], mask: int, primary: int, undecided: bool, changing: bool, passing: bool
) -> Record:
    if primary < 0 or changing:
        return {
            "verdict": "unknown" if undecided or changing else "ok",
            "reason": None,
            "also": [],
            "duration": None,
            "check": None,
            "wrongly_refused": False,
        }
    gate = gates[primary]
    also: list[str] = []
    left = mask ^ 1 << primary
    while left:  # of some fifty gates few refuse
        lowest = left & -left
        name = gates[lowest.bit_length() - 1].reason.name
        if name != gate.reason.name and name not in also:
            also.append(name)
        left ^= lowest
    return {
        "verdict": "refused",
        "reason": gate.reason.name,
        "also": also,
        "duration": duration(gates, mask, primary, passing).value,
        "check": gate.kernel,
        "wrongly_refused": gate.wrongly,
    }
