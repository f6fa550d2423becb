# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Per-CPU LRU and mlock batches: each entry holds one reference until the batch is drained (lru_add_drain_all()).

A folio with such a reference looks pinned to any plain comparison, but every path that drains first will move it.
"""

from __future__ import annotations

from dataclasses import dataclass

from drgn import FaultError, Object, Program, Type, TypeKind
from drgn.helpers.linux.percpu import per_cpu

from .layout import Layout, possible_cpus

# Newest first is of no account here: a kernel has whichever of these it has.
VARIABLES = (
    "cpu_fbatches",  # since v5.18 (as lru_pvecs before)
    "lru_pvecs",
    "lru_rotate",  # part of cpu_fbatches since v6.12
    "mlock_fbatch",  # since v6.3
    "mlock_pvec",  # v5.18 to v6.2
)
BATCH_TYPES = ("struct folio_batch", "struct pagevec")
TAG_MASK = 3  # mlock batches tag the pointer: LRU_FOLIO 1, NEW_FOLIO 2


@dataclass(frozen=True)
class BatchEntry:
    """One reference held by a batch."""

    pfn: int
    cpu: int
    batch: str


@dataclass(frozen=True)
class Batches:
    """Every reference that batches hold, and the batches that could not be read."""

    entries: tuple[BatchEntry, ...]
    failures: tuple[str, ...]

    def counts(self) -> dict[int, int]:
        """Return the number of references by page frame."""
        counts: dict[int, int] = {}
        for entry in self.entries:
            counts[entry.pfn] = counts.get(entry.pfn, 0) + 1
        return counts


def _entries(prog: Program, batch: Object, layout: Layout) -> list[int]:
    member = "folios" if batch.type_.unaliased().has_member("folios") else "pages"
    slots = batch.member_(member)
    count = min(int(batch.nr), int(slots.type_.length or 0))
    result = []
    for i in range(count):
        address = (int(slots[i].value_()) & ~TAG_MASK) - layout.vmemmap
        if address >= 0 and address % layout.page_struct_size == 0:
            result.append(address // layout.page_struct_size)
    return result


def _batches_in(variable: Object, name: str) -> list[tuple[str, Object]]:
    """Return the batches that a per-CPU variable consists of, by name."""
    type_: Type = variable.type_.unaliased()
    if type_.type_name() in BATCH_TYPES:
        return [(name, variable)]
    result = []
    if type_.kind == TypeKind.STRUCT:
        for member in type_.members or ():
            if member.name and member.type.unaliased().type_name() in BATCH_TYPES:
                result.append((member.name, variable.member_(member.name)))
    return result


def read_batches(prog: Program, layout: Layout) -> Batches:
    """Read every per-CPU batch of the target."""
    entries: list[BatchEntry] = []
    failures: list[str] = []
    try:
        cpus = list(possible_cpus(prog))
    except FaultError as error:
        return Batches((), (f"list of CPUs: {error}",))
    for name in VARIABLES:
        try:
            variable = prog[name]
        except LookupError:
            continue
        for cpu in cpus:
            try:
                for batch_name, batch in _batches_in(per_cpu(variable, cpu), name):
                    entries += [BatchEntry(pfn, cpu, batch_name) for pfn in _entries(prog, batch.read_(), layout)]
            except FaultError as error:
                failures.append(f"{name} of CPU {cpu}: {error}")
    return Batches(tuple(sorted(entries, key=lambda e: (e.pfn, e.cpu, e.batch))), tuple(failures))
