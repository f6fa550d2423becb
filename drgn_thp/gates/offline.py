# SPDX-License-Identifier: LGPL-2.1-or-later
"""
offline_pages(): echo offline > /sys/devices/system/memory/memoryN/state, ACPI, dax/kmem.

Only the test before it begins, and PageOffline pages, make it fail; whatever fails later is tried again until a signal
comes.
"""

from __future__ import annotations

from ..folios import Column, Folios
from ..formulas import is_zone_movable, page_has_movable_ops
from ..kernel import Kernel
from . import reasons, states
from .migrate import Mode, migrate_gates
from .model import Duration, Gate, Path
from .unmovable import has_unmovable_pages, unmovable_kinds

SCAN = "scan_movable_pages()"
RANGE = "do_migrate_range()"
DISSOLVE = "dissolve_free_hugetlb_folios(): -EBUSY"


def _poisoned_large(f: Folios) -> Column:
    return states.lru_or_user(f) & (f.order > 0) & (f.has_hwpoisoned | f.hwpoison)


def _skips_poisoned(kernel: Kernel) -> bool:
    return kernel.offline_skips_poisoned_large


def _no_target(f: Folios) -> Column:
    """
    What do_migrate_range() gives alloc_migration_target(), which takes memory of ZONE_MOVABLE for that of it only.

    Other nodes are all that it allows, as soon as there are any. For large folios GFP_TRANSHUGE allows ZONE_MOVABLE as
    well, and huge pages come from their pools.
    """
    given = states.lru_or_user(f) & (f.lru | (f.batches > 0)) | page_has_movable_ops(f) & ~states.movable_ops_busy(f)
    return given & (f.order == 0) & (f.refcount > 0) & ~f.hwpoison & ~is_zone_movable(f) & f.others_all_movable


def _unsupported(f: Folios) -> Column:
    return states.hugetlb_unsupported(f) & states.hugetlb_used(f)


def _left_over(f: Folios) -> Column:
    """What the last test finds: it takes poisoned pages for isolated, and reserved ones never get as far."""
    return ~f.hwpoison & ~f.reserved


PATH = Path(
    "offline",
    "offlining of memory blocks",
    (
        Gate(reasons.BROKEN, "isolate_single_pageblock(): -EBUSY", lambda f: f.broken, Duration.PERMANENT),
        *has_unmovable_pages(offline=True),
        Gate(reasons.PAGE_OFFLINE, f"{SCAN}: -EBUSY", states.page_offline, Duration.PERMANENT),
        Gate(reasons.HWPOISON, f"{RANGE} skips it", _poisoned_large, Duration.ENDLESS, _skips_poisoned),
        # It does not even try to migrate these.
        Gate(reasons.HUGETLB_HWPOISON, DISSOLVE, states.hugetlb_poisoned, Duration.PERMANENT),
        Gate(reasons.HUGETLB_BUSY, DISSOLVE, states.hugetlb_busy, Duration.TRANSIENT),
        # Before any other check, and for the whole of the list: what is locked or held is not even looked at.
        Gate(reasons.NO_TARGET, "alloc_migration_target(): -ENOMEM", _no_target, Duration.ENDLESS),
        *migrate_gates(Mode.SYNC, Duration.ENDLESS),
        Gate(reasons.HUGETLB_UNSUPPORTED, "unmap_and_move_hugetlb_folio()", _unsupported, Duration.ENDLESS),
        Gate(reasons.HUGETLB_RESERVED, DISSOLVE, states.hugetlb_reserved, Duration.TRANSIENT),
        Gate(
            reasons.HUGETLB_VMEMMAP,
            "dissolve_free_hugetlb_folios(): -ENOMEM",
            states.hugetlb_vmemmap,
            Duration.PERMANENT,
            lambda kernel: kernel.vmemmap_stays_on_node,
        ),
        Gate(
            reasons.HUGETLB_VMEMMAP_BUG,
            "test_pages_isolated(), after dissolve_free_hugetlb_folios()",
            states.hugetlb_lean,
            Duration.ENDLESS,
            lambda kernel: kernel.vmemmap_restore_damages,
            wrongly=True,
        ),
        *unmovable_kinds("test_pages_isolated()", Duration.ENDLESS, _left_over),
    ),
)
