# SPDX-License-Identifier: LGPL-2.1-or-later
"""
move_pages(2), mbind(2), migrate_pages(2): a process asks for folios that it maps, so others do not come into question.

Whether a VMA may be migrated at all (vma_migratable()) depends on the mapping process and is not asked here.
"""

from __future__ import annotations

from ..folios import Column, Folios
from ..formulas import folio_mapcount, folio_maybe_mapped_shared
from . import reasons, states
from .migrate import Mode, migrate_gates
from .model import Duration, Gate, Path


def _shared(f: Folios) -> Column:
    return (states.lru_or_user(f) | states.hugetlb_used(f)) & folio_maybe_mapped_shared(f)


def _unsupported(f: Folios) -> Column:
    return states.hugetlb_unsupported(f) & states.hugetlb_used(f)


def _mapped_kernel_page(f: Folios) -> Column:
    """A ring that the kernel shares with a process: io_uring's, AF_PACKET's."""
    return states.kernel_page(f) & (folio_mapcount(f) > 0)


def _gates(move_all: bool) -> tuple[Gate, ...]:
    permanent, transient = Duration.PERMANENT, Duration.TRANSIENT
    function = "add_page_for_migration()"
    isolate = "folio_isolate_lru(): -EBUSY"
    shared = Gate(reasons.MAPPED_SHARED, f"{function}: -EACCES", _shared, permanent)
    return (
        Gate(reasons.BROKEN, function, lambda f: f.broken, permanent),
        Gate(reasons.ZERO_PAGE, f"{function}: -EFAULT", states.zero_page, permanent),
        Gate(reasons.HUGETLB_UNSUPPORTED, "vma_migratable(): -EFAULT", _unsupported, permanent),
        *(() if move_all else (shared,)),
        Gate(reasons.HUGETLB_HWPOISON, "folio_isolate_hugetlb(): -EBUSY", states.hugetlb_poisoned, permanent),
        Gate(reasons.HUGETLB_BUSY, "folio_isolate_hugetlb(): -EBUSY", states.hugetlb_busy, transient),
        Gate(reasons.HWPOISON, isolate, states.poisoned, permanent),
        Gate(reasons.ISOLATED, isolate, states.isolated, transient),
        Gate(reasons.NOT_ON_LRU, isolate, states.not_on_lru, permanent),
        Gate(reasons.KERNEL_PAGE, isolate, _mapped_kernel_page, permanent),
        Gate(reasons.FROZEN, isolate, states.frozen, transient),
        *migrate_gates(Mode.SYNC, permanent),
    )


PATHS = (
    Path("mbind", "move_pages(2) and mbind(2) without MPOL_MF_MOVE_ALL", _gates(move_all=False)),
    Path("mbind-move-all", "move_pages(2) and mbind(2) with MPOL_MF_MOVE_ALL", _gates(move_all=True)),
)
