# SPDX-License-Identifier: LGPL-2.1-or-later
"""Zones, read once per target; and the proof that the zone and node bits of the flags word are decoded rightly."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy
from drgn import FaultError, Object, Program
from drgn.helpers.linux.mmzone import for_each_online_pgdat

from .errors import UnknownLayout
from .layout import Layout
from .memmap import Memmap
from .sections import Sections

SAMPLES = 256


@dataclass(frozen=True)
class Zone:
    """A populated ``struct zone``."""

    node: int
    index: int
    name: str
    start_pfn: int
    end_pfn: int
    present_pages: int
    address: int


def read_zones(prog: Program, layout: Layout) -> tuple[list[Zone], list[str]]:
    """Return every zone that spans page frames; and what could not be read, in words."""
    zones: list[Zone] = []
    failures: list[str] = []
    try:
        for pgdat in for_each_online_pgdat(prog):
            try:
                zones += _zones_of(pgdat, layout)
            except FaultError as error:
                failures.append(f"a node's zones cannot be read: {error}")
    except FaultError as error:
        failures.append(f"the list of nodes cannot be read: {error}")
    return zones, failures


def _zones_of(pgdat: Object, layout: Layout) -> list[Zone]:
    zones = []
    node = int(pgdat.node_id)
    for index in range(len(layout.zone_names)):
        zone = pgdat.node_zones[index]
        spanned = int(zone.spanned_pages)
        if spanned:
            start = int(zone.zone_start_pfn)
            name = layout.zone_names[index]
            present = int(zone.present_pages)
            zones.append(Zone(node, index, name, start, start + spanned, present, int(zone.address_of_())))
    return zones


def _nodes_of_kernel(zones: Iterable[Zone], movable: int) -> set[int]:
    return {zone.node for zone in zones if zone.index < movable and zone.present_pages}


def movable_nodes(zones: Iterable[Zone], movable: int) -> list[int]:
    """
    Return the nodes that have no memory for the kernel itself, in ascending order.

    :param movable: ZONE_MOVABLE of this kernel
    """
    return sorted({zone.node for zone in zones} - _nodes_of_kernel(zones, movable))


def nodes_among_movable(zones: Iterable[Zone], movable: int) -> list[int]:
    """
    Return the nodes beside which there are others with memory (N_MEMORY), all of it movable, in ascending order.

    :param movable: ZONE_MOVABLE of this kernel
    """
    nodes = {zone.node for zone in zones if zone.present_pages}
    own = _nodes_of_kernel(zones, movable)
    return [node for node in sorted(nodes) if nodes != {node} and own <= {node}]


def check_zone_bits(memmap: Memmap, sections: Sections, zones: list[Zone]) -> list[str]:
    """
    Check the zone and node decoded from struct pages against the ranges of the zones themselves.

    The widths of both fields are preprocessor constants of the kernel, so they were derived, not read. Were they wrong,
    hardly a page would agree; a few that do not are damaged themselves.

    :return: What is in doubt, in words
    :raises UnknownLayout: if most pages claim a zone that does not reach to them
    """
    runs = sections.runs()
    total = sum(end - start for start, end in runs)
    step = max(total // SAMPLES, 1)
    checked = 0
    wrong = []
    for start, end in runs:
        for pfn in range(start, end, step):
            if not any(zone.start_pfn <= pfn < zone.end_pfn for zone in zones):
                continue  # a hole at the end of a section of boot memory
            try:
                rows = memmap.rows(memmap.read(pfn, 1), numpy.array([0]))
            except FaultError:
                continue
            folio = memmap.folios(rows)
            if int(folio.flags[0]) in (0, 0xFFFFFFFFFFFFFFFF):
                continue  # never initialised
            node, index = int(folio.node[0]), int(folio.zone[0])
            checked += 1
            if not any(z.node == node and z.index == index and z.start_pfn <= pfn < z.end_pfn for z in zones):
                wrong.append(f"page frame {pfn:#x} claims node {node}, zone {index}, which does not reach to it")
    if 2 * len(wrong) > checked:
        raise UnknownLayout(
            f"{wrong[0]}, and so do {len(wrong)} of {checked}: the flags word of struct page is laid out differently"
        )
    if not checked and zones and total:
        raise UnknownLayout("no struct page could be read to check the layout of its flags word")
    if wrong:
        return [f"of {checked} struct pages {len(wrong)} are damaged, or zones are: {wrong[0]}"]
    return [] if checked else ["no zone is known: where struct pages hold theirs could not be checked"]
