# SPDX-License-Identifier: LGPL-2.1-or-later
"""Checks that compaction and alloc_contig_range() share: both isolate by isolate_migratepages_block()."""

from __future__ import annotations

from ..folios import Column, Folios, formula
from ..formulas import extra_references, folio_mapping_is_null, page_mapcount
from ..kernel import Kernel
from . import reasons, states
from .model import Duration, Gate

FUNCTION = "isolate_migratepages_block()"


@formula
def _looked_at(f: Folios) -> Column:
    return states.lru_or_user(f) & f.lru & (f.refcount > 0) & folio_mapping_is_null(f)


@formula
def _surplus(f: Folios) -> Column:
    return _looked_at(f) & (states.surplus(f) > 0)


def _pinned(f: Folios) -> Column:
    return _surplus(f) & states.dma_pinned(f)


def _referenced(f: Folios) -> Column:
    return _surplus(f) & states.extra_reference(f)


def _misjudged(f: Folios) -> Column:
    """Refused by comparison with the map count of the head page alone, while nobody holds the folio."""
    return _looked_at(f) & (extra_references(f) <= 0) & (f.refcount - f.batches > page_mapcount(f))


def _old_form(kernel: Kernel) -> bool:
    return kernel.racy_check.old


def racy_pin_check() -> tuple[Gate, ...]:
    """
    Return the "admittedly racy check": a folio without mapping must not have more references than mappings.

    Folios of page and swap cache are exempt. Before 829ae0f81ce0 ("mm: migrate: fix THP's mapcount on isolation") (in
    v6.1) it took page_mapcount() of the head page for the mappings of a whole THP. Batches are not drained here.
    """
    return (
        Gate(reasons.DMA_PINNED, FUNCTION, _pinned, Duration.PERMANENT),
        Gate(reasons.EXTRA_REFERENCE, FUNCTION, _referenced, Duration.PERMANENT),
        Gate(reasons.RACY_PIN_CHECK, FUNCTION, _misjudged, Duration.PERMANENT, _old_form, wrongly=True),
    )


def batched(f: Folios) -> Column:
    """Folios whose only surplus is an entry in a batch: refused by a check that does not drain first."""
    return _looked_at(f) & (f.batches > 0) & (states.surplus(f) <= 0)
