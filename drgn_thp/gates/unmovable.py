# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The kinds of pages that no path can isolate, and the test that finds them before anything is tried.

start_isolate_page_range() asks has_unmovable_pages() of every pageblock, which takes every page of ZONE_MOVABLE but
reserved ones for movable. What slips through is skipped by the isolation and found again at the end.
"""

from __future__ import annotations

from typing import Callable

from ..folios import Column, Folios, formula
from ..formulas import is_zone_movable
from ..kernel import Kernel
from . import reasons, states
from .model import Duration, Gate, Reason

Predicate = Callable[[Folios], Column]

UNMOVABLE_KINDS: tuple[tuple[Reason, Predicate], ...] = (
    (reasons.SLAB, states.slab),
    (reasons.PAGE_TABLE, states.page_table),
    (reasons.GUARD_PAGE, states.guard),
    (reasons.ZERO_PAGE, states.zero_page),
    (reasons.KERNEL_PAGE, states.kernel_page),
    (reasons.NOT_ON_LRU, states.not_on_lru),
)
"""Kinds that stay what they are; PageOffline and unaccepted memory depend on who asks."""


def unmovable_kinds(
    kernel: str, lasting: Duration, condition: Predicate | None = None, when: Callable[[Kernel], bool] | None = None
) -> tuple[Gate, ...]:
    """
    Return a gate for each kind of page that cannot be isolated, and for those that just now cannot.

    :param condition: Which folios the check looks at; all if None
    """

    def both(predicate: Predicate) -> Predicate:
        if condition is None:
            return predicate
        return lambda f: predicate(f) & condition(f)

    applies = when or (lambda kernel: True)
    lasting_gates = (Gate(reason, kernel, both(test), lasting, applies) for reason, test in UNMOVABLE_KINDS)
    passing_gates = (
        Gate(reasons.ISOLATED, kernel, both(states.isolated), Duration.TRANSIENT, applies),
        Gate(reasons.IN_TRANSIT, kernel, both(states.in_transit), Duration.TRANSIENT, applies),
        Gate(reasons.FROZEN, kernel, both(states.frozen), Duration.TRANSIENT, applies),
        Gate(reasons.MOVABLE_OPS_BUSY, kernel, both(states.movable_ops_busy), Duration.TRANSIENT, applies),
    )
    return (*lasting_gates, *passing_gates)


@formula
def _asked(f: Folios) -> Column:
    """Pages that has_unmovable_pages() looks at closely; it takes a page without references for free."""
    return ~is_zone_movable(f) & ((f.order > 0) | (f.refcount > 0))


@formula
def _outside_cma(f: Folios) -> Column:
    return _asked(f) & ~f.pageblock_cma


def _reserved(f: Folios) -> Column:
    return f.reserved & ~f.pageblock_cma


def _cma(f: Folios) -> Column:
    return f.pageblock_cma


def _isolated_pageblock(f: Folios) -> Column:
    return f.pageblock_isolated


def _hugetlb_unsupported(f: Folios) -> Column:
    return states.hugetlb_unsupported(f) & _outside_cma(f)


def _batched(f: Folios) -> Column:
    return states.in_lru_add_batch(f) & _outside_cma(f)


def _no_early_drain(kernel: Kernel) -> bool:
    return not kernel.lru_cache_disable


def has_unmovable_pages(offline: bool) -> tuple[Gate, ...]:
    """
    Return the gates of start_isolate_page_range().

    :param offline: For offlining, which refuses CMA areas, but lets PageOffline and poisoned pages pass at this point.
        Other callers meet a CMA area only as CMA itself, for which all of it is movable
    """
    function = "has_unmovable_pages(): -EBUSY"
    permanent = Duration.PERMANENT
    gates = [
        Gate(reasons.PAGEBLOCK_ISOLATED, "set_migratetype_isolate(): -EBUSY", _isolated_pageblock, Duration.TRANSIENT)
    ]
    if offline:
        gates.append(Gate(reasons.CMA_PAGEBLOCK, function, _cma, permanent))
    gates += [
        Gate(reasons.RESERVED, function, _reserved, permanent),
        Gate(reasons.HUGETLB_UNSUPPORTED, function, _hugetlb_unsupported, permanent),
        *unmovable_kinds(function, permanent, _outside_cma),
    ]
    if not offline:
        gates += [
            Gate(reasons.PAGE_OFFLINE, function, lambda f: states.page_offline(f) & _outside_cma(f), permanent),
            Gate(
                reasons.HWPOISON,
                function,
                lambda f: f.hwpoison & ~f.lru & (f.refcount > 0) & _outside_cma(f),
                permanent,
            ),
        ]
    # alloc_contig_range() empties the batches only after this test; so does offlining before v5.13.
    drains = _no_early_drain if offline else (lambda kernel: True)
    gates.append(Gate(reasons.LRU_BATCH, function, _batched, Duration.TRANSIENT, drains))
    return tuple(gates)
