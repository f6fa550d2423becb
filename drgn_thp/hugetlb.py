# SPDX-License-Identifier: LGPL-2.1-or-later
"""The pools of huge pages: whether a size can be migrated at all, and whether there is anything to move to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy
from drgn import Architecture, Object, Program

from .folios import Column, Folios
from .kernel import Kernel
from .zones import Zone

MAX_HSTATES = 16


@dataclass(frozen=True)
class Hstate:
    """One ``struct hstate``: the pool of one size."""

    order: int
    nr_huge_pages: int
    free_huge_pages: int
    resv_huge_pages: int
    migratable: bool
    """hugepage_migration_supported()."""
    buddy_can_replace: bool
    """Whether any zone has a free block of that size, from which the pool could be refilled."""
    nodes_with_room: frozenset[int] = frozenset()
    """Nodes of which a zone has."""
    nodes_with_free: frozenset[int] = frozenset()
    """Nodes with free pages in the pool."""

    @property
    def available(self) -> int:
        """available_huge_pages(): free ones that are not promised to anybody."""
        return self.free_huge_pages - self.resv_huge_pages

    @property
    def has_target(self) -> bool:
        return self.available > 0 or self.buddy_can_replace


def _migratable(prog: Program, order: int, page_shift: int) -> bool:
    arch = prog.platform.arch if prog.platform else None
    if arch == Architecture.X86_64:
        # arch_hugetlb_migration_supported(): the size of an entry of any level.
        return order + page_shift in (21, 30)
    return arch in (Architecture.AARCH64, Architecture.PPC64)


def largest_free_order(prog: Program, zones: list[Zone]) -> int:
    """Return the largest order of which any zone's buddy allocator has a free block; -1 if there is none."""
    zone_type = prog.type("struct zone")
    largest = -1
    for zone in zones:
        areas = Object(prog, zone_type, address=zone.address).free_area
        for order in range(int(areas.type_.length or 0) - 1, largest, -1):
            if int(areas[order].nr_free) > 0:
                largest = order
                break
    return largest


def read_hstates(prog: Program, kernel: Kernel, zones: list[Zone]) -> list[Hstate]:
    """Return the pools of the target; none if it has no hugetlb."""
    try:
        hstates, count = prog["hstates"], int(prog["hugetlb_max_hstate"].value_())
    except LookupError:
        return []
    free_order = largest_free_order(prog, zones)
    nodes = {zone.node for zone in zones}
    free_orders = {node: largest_free_order(prog, [z for z in zones if z.node == node]) for node in nodes}
    result = []
    for hstate in hstates[: min(count, MAX_HSTATES)]:
        order = int(hstate.order)
        result.append(
            Hstate(
                order,
                int(hstate.nr_huge_pages),
                int(hstate.free_huge_pages),
                int(hstate.resv_huge_pages),
                _migratable(prog, order, kernel.page_shift),
                free_order >= order,
                frozenset(node for node, largest in free_orders.items() if largest >= order),
                frozenset(node for node in free_orders if int(hstate.free_huge_pages_node[node]) > 0),
            )
        )
    return result


def hugetlb_columns(hstates: list[Hstate], f: Folios) -> dict[str, Column]:
    """Return what gates ask of the pool of each folio's size; of an unknown size, nothing good."""

    def by_order(values: dict[int, bool]) -> Column:
        column = numpy.zeros(len(f), dtype=bool)
        for order, value in values.items():
            if value:
                column |= f.order == order
        return column

    def on_node(h: Hstate, nodes: frozenset[int]) -> Column:
        found: Column = (f.order == h.order) & numpy.isin(f.node, list(nodes))
        return found

    room, target = numpy.zeros(len(f), dtype=bool), numpy.zeros(len(f), dtype=bool)
    for h in hstates:
        room |= on_node(h, h.nodes_with_room)
        target |= on_node(h, h.nodes_with_room | (h.nodes_with_free if h.available > 0 else frozenset()))
    return {
        "hugetlb_room_on_node": room,
        "hugetlb_target_on_node": target,
        "hugetlb_supported": by_order({h.order: h.migratable for h in hstates}),
        "hugetlb_target": by_order({h.order: h.has_target for h in hstates}),
        "hugetlb_available": by_order({h.order: h.available > 0 for h in hstates}),
    }
