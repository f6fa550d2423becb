# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What the page tables of all processes of a dump map: a map count is nothing but the number of entries that do.

Of x86-64 only, with four or five levels. Reads physical memory, and shares nothing with the package under test.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy
from drgn import Program
from drgn.helpers.linux.mm import virt_to_phys
from drgn.helpers.linux.pid import for_each_task

PAGE_SIZE = 4096
PRESENT, HUGE = 1 << 0, 1 << 7
# Not the folio's: the zero page, and pages of the kernel that a driver shows.
SPECIAL = 1 << 9
# Present for the kernel alone (PROT_NONE). No scenario has such entries; a walk that met one would miscount.
PROTNONE = 1 << 8
ADDRESS = 0x000FFFFFFFFFF000


@dataclass
class Mapped:
    """
    How often each page is mapped.

    :ivar ptes: By page frame, entries for just this page.
    :ivar pmds: By page frame of the first page, entries for a range of pages.
    :ivar pte_mappers: By page frame, the processes with an entry for just this page.
    """

    ptes: Counter[int] = field(default_factory=Counter)
    pmds: Counter[int] = field(default_factory=Counter)
    pte_mappers: dict[int, set[int]] = field(default_factory=dict)

    def total(self, head: int, order: int) -> int:
        """Return the number of entries that map any part of a folio."""
        return self.pmds[head] + sum(self.ptes[pfn] for pfn in range(head, head + (1 << order)))


def walk(prog: Program) -> Mapped:
    """Walk the page tables of every process."""
    mapped = Mapped()
    levels = 5 if b"NUMBER(pgtable_l5_enabled)=1\n" in prog["VMCOREINFO"].string_() else 4
    seen: set[int] = set()
    for task in for_each_task(prog):
        if task.mm and task.mm.value_() not in seen:
            seen.add(task.mm.value_())
            _walk(prog, mapped, int(task.pid), int(virt_to_phys(task.mm.pgd)), levels, True)
    return mapped


def _walk(prog: Program, mapped: Mapped, pid: int, table: int, level: int, top: bool) -> None:
    entries = numpy.frombuffer(prog.read(table, PAGE_SIZE, True), "<u8")
    if top:
        entries = entries[: len(entries) // 2]  # the rest is the kernel's
    assert not (entries[(entries & PRESENT) == 0] & PROTNONE).any(), "PROT_NONE entries are not understood"
    entries = entries[(entries & PRESENT) != 0]
    if level == 1:
        pfns = ((entries[(entries & SPECIAL) == 0] & ADDRESS) // PAGE_SIZE).tolist()
        mapped.ptes.update(pfns)
        for pfn in pfns:
            mapped.pte_mappers.setdefault(pfn, set()).add(pid)
        return
    for entry in entries.tolist():
        if level <= 3 and entry & HUGE:
            if not entry & SPECIAL:
                mapped.pmds[(entry & ADDRESS) // PAGE_SIZE] += 1
        else:
            _walk(prog, mapped, pid, entry & ADDRESS, level - 1, False)
