# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Compaction, in both manners.

Direct compaction, kcompactd and proactive compaction isolate with ISOLATE_ASYNC_MIGRATE, which leaves alone what would
make them wait; /proc/sys/vm/compact_memory does not.
"""

from __future__ import annotations

import numpy

from ..folios import Column, Folios
from ..formulas import PageHuge, nr_pages, page_cache
from ..kernel import Kernel
from ..mapping_kinds import MigrateOp
from . import reasons, states
from .isolation import FUNCTION, batched, racy_pin_check
from .migrate import Mode, migrate_gates
from .model import Duration, Gate, Path
from .unmovable import unmovable_kinds


def _any_compound(f: Folios) -> Column:
    return (f.order > 0) & ~PageHuge(f)


def _large_compound(f: Folios) -> Column:
    """Since v6.9 smaller folios move; those up to the order asked for only if the whole zone is compacted."""
    return _any_compound(f) & (nr_pages(f) >= numpy.int64(1) << f.kernel.pageblock_order)


def _all_refused(kernel: Kernel) -> bool:
    return not kernel.compaction_takes_large_folios


def _large_refused(kernel: Kernel) -> bool:
    return kernel.compaction_takes_large_folios


def _unevictable(f: Folios) -> Column:
    return f.unevictable & f.lru


def _spares_unevictable(kernel: Kernel) -> bool:
    return not kernel.compact_unevictable_allowed


def _writeback(f: Folios) -> Column:
    return states.lru_or_user(f) & f.lru & f.writeback


def _dirty_locked(f: Folios) -> Column:
    return states.lru_or_user(f) & f.lru & f.dirty & f.locked


def _dirty_without_op(f: Folios) -> Column:
    return page_cache(f) & f.lru & f.dirty & (f.migrate_op == MigrateOp.NONE)


def _inaccessible(f: Folios) -> Column:
    return f.inaccessible & f.unevictable & f.lru


def _gates(mode: Mode) -> tuple[Gate, ...]:
    permanent, transient = Duration.PERMANENT, Duration.TRANSIENT
    asynchronous = (
        Gate(reasons.WRITEBACK, FUNCTION, _writeback, transient),
        Gate(reasons.LOCKED, FUNCTION, _dirty_locked, transient),
        Gate(reasons.NO_MIGRATE_OP_DIRTY, FUNCTION, _dirty_without_op, permanent),
    )
    return (
        Gate(reasons.BROKEN, FUNCTION, lambda f: f.broken, permanent),
        Gate(reasons.HUGETLB_SKIPPED, FUNCTION, PageHuge, permanent),
        Gate(reasons.COMPOUND_ORDER, FUNCTION, _any_compound, permanent, _all_refused),
        Gate(reasons.COMPOUND_ORDER, FUNCTION, _large_compound, permanent, _large_refused),
        Gate(reasons.RESERVED, FUNCTION, lambda f: f.reserved, permanent),
        Gate(reasons.PAGE_OFFLINE, FUNCTION, states.page_offline, permanent),
        Gate(reasons.HWPOISON, FUNCTION, states.poisoned, permanent),
        *unmovable_kinds(FUNCTION, permanent),
        Gate(reasons.LRU_BATCH, FUNCTION, states.in_lru_add_batch, transient),
        *racy_pin_check(),
        Gate(reasons.LRU_BATCH, FUNCTION, batched, transient),
        Gate(reasons.UNEVICTABLE, FUNCTION, _unevictable, permanent, _spares_unevictable),
        *(asynchronous if mode is Mode.ASYNC else ()),
        Gate(reasons.INACCESSIBLE, FUNCTION, _inaccessible, permanent),
        *migrate_gates(mode, permanent),
    )


PATHS = (
    Path("compaction", "compaction that does not wait: direct, kcompactd, proactive", _gates(Mode.ASYNC)),
    Path("compaction-sync", "compaction that waits: /proc/sys/vm/compact_memory", _gates(Mode.SYNC)),
)
