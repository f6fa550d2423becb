# SPDX-License-Identifier: LGPL-2.1-or-later
"""Per-CPU LRU and mlock batches, which the balance knows already: shown as holders, and not counted again."""

from __future__ import annotations

from collections.abc import Iterator

from drgn import FaultError

from .ground import Ground
from .model import Claim, Owner, Walker


def walk(ground: Ground) -> Iterator[Claim]:
    """Yield what is in each batch of each CPU."""
    batches = ground.context.batches  # as the balance has them
    found: dict[tuple[int, str], list[int]] = {}
    for entry in batches.entries:
        found.setdefault((entry.cpu, entry.batch), []).append(entry.pfn)
    for (cpu, batch), pfns in found.items():
        yield Claim(Owner(f"batch {batch}", cpu=cpu), pfns, gets=1, expected=True)
    for failure in batches.failures:
        with ground.part("batch"):
            raise FaultError(failure, 0)


WALKERS = (
    Walker(
        kind="lru-batch",
        summary="a page that is on its way to or from an LRU list, in a batch of a CPU",
        frees="nothing needs to: whoever migrates drains the batches first (lru_add_drain_all())",
        walk=walk,
        transient=True,
    ),
)
