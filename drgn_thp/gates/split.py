# SPDX-License-Identifier: LGPL-2.1-or-later
"""split_huge_page(): taking a large folio apart into single pages, as reclaim, migration and truncation do."""

from __future__ import annotations

from typing import Callable

from ..folios import Column, Folios
from ..formulas import PageAnon, PageHuge, folio_mapcount, is_user, page_cache
from . import reasons, states
from .model import Duration, Gate, Path

FUNCTION = "__folio_split()"


def _large(predicate: Callable[[Folios], Column]) -> Callable[[Folios], Column]:
    """Only large folios of processes and files are ever split."""

    def refuses(f: Folios) -> Column:
        return (f.order > 0) & is_user(f) & ~PageHuge(f) & (f.refcount > 0) & predicate(f)

    return refuses


def _kernel_memory(f: Folios) -> Column:
    # Since v6.15, pages of slabs have no references.
    return (f.order > 0) & ~is_user(f) & ~PageHuge(f) & ((f.refcount > 0) | states.slab(f))


def _without_mapping(f: Folios) -> Column:
    """A file folio that was truncated, or a shmem folio in the swap cache."""
    return ~PageAnon(f) & ~page_cache(f)


def _unmapped_anon(f: Folios) -> Column:
    return PageAnon(f) & (folio_mapcount(f) == 0)


def _min_order(f: Folios) -> Column:
    return page_cache(f) & (f.min_order > 0)


def _private(f: Folios) -> Column:
    return page_cache(f) & f.private_flag & f.dirty


PATH = Path(
    "split",
    "splitting of large folios (THP)",
    (
        Gate(reasons.BROKEN, FUNCTION, lambda f: f.broken, Duration.PERMANENT),
        Gate(reasons.HUGETLB_SKIPPED, "split_huge_pages_all(): passed over", PageHuge, Duration.PERMANENT),
        Gate(reasons.ZERO_PAGE, f"{FUNCTION}: -EBUSY", lambda f: f.huge_zero, Duration.PERMANENT),
        Gate(reasons.KERNEL_PAGE, "split_huge_pages_all(): passed over", _kernel_memory, Duration.PERMANENT),
        Gate(reasons.MIN_ORDER, f"{FUNCTION}: -EINVAL", _large(_min_order), Duration.PERMANENT),
        Gate(reasons.WRITEBACK, f"{FUNCTION}: -EBUSY", _large(lambda f: f.writeback), Duration.TRANSIENT),
        Gate(reasons.UNMAPPED_ANON, "folio_get_anon_vma(): -EBUSY", _large(_unmapped_anon), Duration.TRANSIENT),
        Gate(reasons.TRUNCATED, f"{FUNCTION}: -EBUSY", _large(_without_mapping), Duration.TRANSIENT),
        Gate(reasons.PRIVATE_BUSY, "filemap_release_folio(): -EBUSY", _large(_private), Duration.TRANSIENT),
        Gate(reasons.ISOLATED, f"{FUNCTION}: -EAGAIN", _large(states.isolated), Duration.TRANSIENT),
        Gate(reasons.DMA_PINNED, f"{FUNCTION}: -EAGAIN", _large(states.dma_pinned), Duration.PERMANENT),
        Gate(reasons.EXTRA_REFERENCE, f"{FUNCTION}: -EAGAIN", _large(states.extra_reference), Duration.PERMANENT),
        Gate(reasons.MISSING_REFERENCE, f"{FUNCTION}: -EAGAIN", _large(states.missing_reference), Duration.TRANSIENT),
        Gate(reasons.LRU_BATCH, f"{FUNCTION}: -EAGAIN", _large(lambda f: f.batches > 0), Duration.TRANSIENT),
    ),
)
