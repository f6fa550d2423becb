# SPDX-License-Identifier: LGPL-2.1-or-later
"""alloc_contig_range(): CMA, virtio-mem's unplug of sub-blocks, gigantic pages."""

from __future__ import annotations

from ..folios import Column, Folios
from ..kernel import Kernel
from . import reasons, states
from .isolation import FUNCTION, racy_pin_check
from .migrate import Mode, migrate_gates
from .model import Duration, Gate, Path
from .unmovable import has_unmovable_pages, unmovable_kinds

FINAL = "test_pages_isolated(): -EBUSY"


def _knows_hugetlb(kernel: Kernel) -> bool:
    return kernel.contig_migrates_hugetlb


def _no_hugetlb(kernel: Kernel) -> bool:
    return not kernel.contig_migrates_hugetlb


def _hugetlb(f: Folios) -> Column:
    return states.hugetlb_used(f) | states.hugetlb_free(f)


def _hugetlb_free_without_target(f: Folios) -> Column:
    return states.hugetlb_free(f) & ~f.hugetlb_room_on_node


def _hugetlb_used_without_target(f: Folios) -> Column:
    return states.hugetlb_used(f) & ~f.hugetlb_target_on_node


def _stays_on_node(kernel: Kernel) -> bool:
    return kernel.contig_hugetlb_stays_on_node


def _vmemmap_stays_on_node(kernel: Kernel) -> bool:
    return kernel.vmemmap_stays_on_node


def _vmemmap_restore_damages(kernel: Kernel) -> bool:
    return kernel.vmemmap_restore_damages


def _unsupported(f: Folios) -> Column:
    return states.hugetlb_unsupported(f) & states.hugetlb_used(f)


def _inaccessible(f: Folios) -> Column:
    return f.inaccessible & f.unevictable & f.lru


PATH = Path(
    "contig",
    "alloc_contig_range(): CMA allocations, virtio-mem unplug, gigantic huge pages",
    (
        Gate(reasons.BROKEN, "isolate_single_pageblock(): -EBUSY", lambda f: f.broken, Duration.PERMANENT),
        *has_unmovable_pages(offline=False),
        Gate(reasons.HUGETLB_CONTIG, FUNCTION, _hugetlb, Duration.PERMANENT, _no_hugetlb),
        Gate(
            reasons.HUGETLB_GIGANTIC,
            "isolate_or_dissolve_huge_folio(): -ENOMEM",
            states.hugetlb_gigantic,
            Duration.PERMANENT,
            _knows_hugetlb,
        ),
        Gate(
            reasons.HUGETLB_NO_TARGET,
            "alloc_and_dissolve_hugetlb_folio(): -ENOMEM",
            _hugetlb_free_without_target,
            Duration.TRANSIENT,
            _knows_hugetlb,
        ),
        Gate(
            reasons.HUGETLB_HWPOISON,
            "isolate_or_dissolve_huge_folio(): -EBUSY",
            states.hugetlb_poisoned,
            Duration.PERMANENT,
            _knows_hugetlb,
        ),
        Gate(
            reasons.HUGETLB_BUSY,
            "isolate_or_dissolve_huge_folio(): -EBUSY",
            states.hugetlb_busy,
            Duration.TRANSIENT,
            _knows_hugetlb,
        ),
        *unmovable_kinds(FUNCTION, Duration.PERMANENT),
        *racy_pin_check(),
        Gate(reasons.INACCESSIBLE, FUNCTION, _inaccessible, Duration.PERMANENT),
        *migrate_gates(Mode.SYNC, Duration.PERMANENT),
        Gate(reasons.HUGETLB_UNSUPPORTED, "unmap_and_move_hugetlb_folio()", _unsupported, Duration.PERMANENT),
        Gate(
            reasons.HUGETLB_NO_TARGET,
            "unmap_and_move_hugetlb_folio(): -ENOMEM",
            _hugetlb_used_without_target,
            Duration.TRANSIENT,
            _stays_on_node,
        ),
        Gate(
            reasons.HUGETLB_VMEMMAP_BUG,
            "alloc_and_dissolve_hugetlb_folio() never ends",
            states.hugetlb_lean,
            Duration.WILL_BLOCK,
            _vmemmap_restore_damages,
            wrongly=True,
        ),
        # Put back into the pool by update_and_free_hugetlb_folio(), which does not say so.
        Gate(reasons.HUGETLB_VMEMMAP, FINAL, states.hugetlb_vmemmap, Duration.PERMANENT, _vmemmap_stays_on_node),
        Gate(reasons.PAGE_OFFLINE, FINAL, states.page_offline, Duration.PERMANENT),
        Gate(reasons.HWPOISON, FINAL, states.poisoned, Duration.PERMANENT),
    ),
)
