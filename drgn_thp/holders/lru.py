# SPDX-License-Identifier: LGPL-2.1-or-later
"""Batches of a CPU: folios on their way to or from the LRU, each with a reference that mm knows of."""

from __future__ import annotations

from collections.abc import Iterator

from .ground import Ground
from .model import Claim, Owner, Walker


def walk(ground: Ground) -> Iterator[Claim]:
    """Yield each entry. The scan has read them all, and what references are expected of a folio counts them."""
    for entry in ground.context.batches.entries:
        yield Claim(Owner(f"batch {entry.batch}", cpu=entry.cpu), [entry.pfn], gets=1, expected=True)


WALKERS = (
    Walker(
        kind="lru-batch",
        summary="a folio in a batch of a CPU, on its way to or from the LRU",
        frees="nothing has to be done: most that moves folios empties the batches first",
        walk=walk,
        transient=True,
    ),
)
