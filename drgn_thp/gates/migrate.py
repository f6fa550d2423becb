# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The checks of migrate_pages() and below, which every path but split ends in: unmap, move mapping, move data.

Order of migrate_folio_unmap(), then migrate_folio_move().
"""

from __future__ import annotations

from enum import Enum

from ..folios import Column, Folios, formula
from ..formulas import PageHuge, page_cache
from ..kernel import Kernel
from ..mapping_kinds import MigrateOp
from . import reasons, states
from .model import Duration, Gate


class Mode(Enum):
    """enum migrate_mode: whether the kernel waits for locks and I/O."""

    ASYNC = "MIGRATE_ASYNC"
    SYNC = "MIGRATE_SYNC"


@formula
def _in_migration(f: Folios) -> Column:
    return states.lru_or_user(f) & (f.refcount > 0)


def _locked(f: Folios) -> Column:
    return _in_migration(f) & f.locked


def _writeback(f: Folios) -> Column:
    return _in_migration(f) & f.writeback


def _truncated(f: Folios) -> Column:
    return states.truncated(f) & (f.private_flag | f.private_2)


def _ksm_lost(f: Folios) -> Column:
    return f.ksm_lost


def _inaccessible(f: Folios) -> Column:
    return page_cache(f) & (f.inaccessible | (f.migrate_op == MigrateOp.GUEST_MEMFD))


def _secretmem(f: Folios) -> Column:
    return page_cache(f) & (f.migrate_op == MigrateOp.SECRETMEM)


@formula
def _dirty_without_op(f: Folios) -> Column:
    return page_cache(f) & ~PageHuge(f) & f.dirty & (f.migrate_op == MigrateOp.NONE)


def _dirty_unwritable(f: Folios) -> Column:
    return _dirty_without_op(f) & ~f.has_writepage


def _dirty_writable(f: Folios) -> Column:
    return _dirty_without_op(f) & f.has_writepage


def _writes_out(kernel: Kernel) -> bool:
    return kernel.fallback_writes_out


def _only_refuses(kernel: Kernel) -> bool:
    return not kernel.fallback_writes_out


def _btree_dirty(f: Folios) -> Column:
    return page_cache(f) & f.dirty & (f.migrate_op == MigrateOp.BTREE)


def _nfs_request(f: Folios) -> Column:
    return page_cache(f) & f.private_flag & (f.migrate_op == MigrateOp.NFS)


def _buffer_busy(f: Folios) -> Column:
    return page_cache(f) & f.private_flag & f.buffer_busy


def _gigantic_without_target(f: Folios) -> Column:
    return states.hugetlb_gigantic(f) & states.hugetlb_no_target(f)


def migrate_gates(mode: Mode, lasting: Duration) -> tuple[Gate, ...]:
    """
    Return the gates of migrate_pages() for one mode.

    :param lasting: What a refusal that does not end by itself means for the caller: it gives up (permanent), or it
        retries until a signal (endless)
    """
    asynchronous = mode is Mode.ASYNC
    waits = Duration.TRANSIENT if asynchronous else Duration.WILL_BLOCK
    transient = Duration.TRANSIENT
    unmap, hugetlb = "migrate_folio_unmap()", "unmap_and_move_hugetlb_folio()"
    again, busy = "-EAGAIN", "-EBUSY"
    written_out = (
        Gate(reasons.NO_MIGRATE_OP_DIRTY, f"fallback_migrate_folio(): {busy}", _dirty_writable, transient, _writes_out),
    )
    return (
        Gate(reasons.LOCKED, f"{unmap}: {again if asynchronous else 'folio_lock() sleeps'}", _locked, waits),
        Gate(
            reasons.WRITEBACK,
            f"{unmap}: {busy if asynchronous else 'folio_wait_writeback() sleeps'}",
            _writeback,
            waits,
        ),
        Gate(reasons.TRUNCATED, f"{unmap}: {again}", _truncated, transient),
        Gate(reasons.KSM_ALONE, f"rmap_walk_ksm() finds no mappings, {unmap}: {again}", states.ksm_alone, lasting),
        Gate(reasons.KSM_LOST, f"rmap_walk_ksm() does not find all mappings, {unmap}: {again}", _ksm_lost, lasting),
        Gate(reasons.INACCESSIBLE, "move_to_new_folio(): -EOPNOTSUPP", _inaccessible, lasting),
        Gate(reasons.SECRETMEM, f"secretmem_migrate_folio(): {busy}", _secretmem, lasting),
        Gate(
            reasons.NO_MIGRATE_OP_DIRTY,
            f"fallback_migrate_folio(): {busy}" if asynchronous else "writeout(): no writepage, -EINVAL",
            _dirty_unwritable,
            lasting,
            _writes_out,
        ),
        # Who waits has them written out by writeout(), and moves them at the next of its ten passes.
        *(written_out if asynchronous else ()),
        Gate(
            reasons.NO_MIGRATE_OP_DIRTY,
            f"fallback_migrate_folio(): {busy}",
            _dirty_without_op,
            lasting,
            _only_refuses,
        ),
        Gate(reasons.BTREE_DIRTY, f"btree_migrate_folio(): {again}", _btree_dirty, transient),
        Gate(reasons.PRIVATE_BUSY, f"nfs_migrate_folio(): {busy}", _nfs_request, transient),
        Gate(reasons.BUFFER_BUSY, f"buffer_migrate_folio_norefs(): {again}", _buffer_busy, lasting),
        # Pools refill themselves from the buddy allocator, but not with what is too large for it.
        Gate(reasons.HUGETLB_GIGANTIC, f"{hugetlb}: -ENOMEM", _gigantic_without_target, lasting),
        Gate(reasons.HUGETLB_NO_TARGET, f"{hugetlb}: -ENOMEM", states.hugetlb_no_target, transient),
        Gate(reasons.DMA_PINNED, f"folio_migrate_mapping(): {again}", states.dma_pinned, lasting),
        Gate(reasons.EXTRA_REFERENCE, f"folio_migrate_mapping(): {again}", states.extra_reference, lasting),
        Gate(
            reasons.MISSING_REFERENCE, f"folio_migrate_mapping(): {again}", states.missing_reference, Duration.TRANSIENT
        ),
    )
