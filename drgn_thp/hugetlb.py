# SPDX-License-Identifier: LGPL-2.1-or-later
"""The pools of huge pages: whether a size can be migrated at all, and whether there is anything to move to."""

from __future__ import annotations

from dataclasses import dataclass, field

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
    room: dict[int, int] = field(default_factory=dict)
    """By node, how many of them its zones have."""
    free: dict[int, int] = field(default_factory=dict)
    """By node, free pages in the pool."""
    used: dict[int, int] = field(default_factory=dict)
    """By node, the other pages of the pool."""

    @property
    def available(self) -> int:
        """available_huge_pages(): free ones that are not promised to anybody."""
        return self.free_huge_pages - self.resv_huge_pages

    def has_target(self, node: int) -> bool:
        """
        Return whether a used page of a node has somewhere to go on another: alloc_migration_target().

        Where there is but one node, its own has to do.
        """
        others = [other for other in self.room if other != node] or [node]
        return any(self.room[other] or (self.available > 0 and self.free[other]) for other in others)

    def has_target_on(self, node: int) -> bool:
        """Return whether all used pages of a node have somewhere to go on it: they take each other's place."""
        return self.room[node] + max(min(self.free[node], self.available), 0) >= self.used[node]


def _migratable(prog: Program, order: int, page_shift: int) -> bool:
    arch = prog.platform.arch if prog.platform else None
    if arch == Architecture.X86_64:
        # arch_hugetlb_migration_supported(): the size of an entry of any level.
        return order + page_shift in (21, 30)
    return arch in (Architecture.AARCH64, Architecture.PPC64)


def free_blocks(prog: Program, zone: Zone, order: int) -> int:
    """Return how many blocks of an order a zone's buddy allocator could give, if it splits larger ones."""
    areas = Object(prog, prog.type("struct zone"), address=zone.address).free_area
    return sum(int(areas[larger].nr_free) << larger - order for larger in range(order, int(areas.type_.length or 0)))


def read_hstates(prog: Program, kernel: Kernel, zones: list[Zone]) -> list[Hstate]:
    """Return the pools of the target; none if it has no hugetlb."""
    try:
        hstates, count = prog["hstates"], int(prog["hugetlb_max_hstate"].value_())
    except LookupError:
        return []
    result = []
    for hstate in hstates[: min(count, MAX_HSTATES)]:
        order = int(hstate.order)
        room = {zone.node: 0 for zone in zones}
        for zone in zones:
            room[zone.node] += free_blocks(prog, zone, order)
        free = {node: int(hstate.free_huge_pages_node[node]) for node in room}
        result.append(
            Hstate(
                order,
                int(hstate.nr_huge_pages),
                int(hstate.free_huge_pages),
                int(hstate.resv_huge_pages),
                _migratable(prog, order, kernel.page_shift),
                room,
                free,
                {node: int(hstate.nr_huge_pages_node[node]) - free[node] for node in room},
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

    def unless_on(h: Hstate, full: list[int]) -> Column:
        # Of a node that could not be read, which the report says, nothing is known against it.
        found: Column = (f.order == h.order) & ~numpy.isin(f.node, full)
        return found

    room, on_node, target = (numpy.zeros(len(f), dtype=bool) for _ in range(3))
    for h in hstates:
        room |= unless_on(h, [node for node, number in h.room.items() if not number])
        on_node |= unless_on(h, [node for node in h.room if not h.has_target_on(node)])
        target |= unless_on(h, [node for node in h.room if not h.has_target(node)])
    return {
        "hugetlb_room_on_node": room,
        "hugetlb_target_on_node": on_node,
        "hugetlb_target": target,
        "hugetlb_supported": by_order({h.order: h.migratable for h in hstates}),
        "hugetlb_available": by_order({h.order: h.available > 0 for h in hstates}),
    }
