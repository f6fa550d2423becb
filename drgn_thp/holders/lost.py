# SPDX-License-Identifier: LGPL-2.1-or-later
"""References that the kernel lost count of: nobody holds them, and nobody will drop them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy

from .. import formulas
from .ground import Ground
from .model import Claim, Owner, Walker

_HEAD = numpy.array([0])


def walk(ground: Ground) -> Iterator[Claim]:
    """Yield the lost references of the folios that are asked about: nothing but they themselves tells of them."""
    if ground.wanted is None:
        return
    memmap, large = ground.context.memmap, ground.wanted.pages > 1
    for head, pages in zip(ground.wanted.start[large].tolist(), ground.wanted.pages[large].tolist()):
        ground.step()
        with ground.part(f"folio {head:#x}"):
            # All that is known of a folio costs much more than a look at its first struct pages.
            first = memmap.folios(memmap.rows(memmap.read(head, 2), _HEAD))
            if first.refcount[0] < pages - 1 or first.lru[0]:
                continue
            lost = int(formulas.lost_references(ground.context.read_folio(head))[0])
            if lost:
                yield Claim(Owner("by the kernel, which split an entry that waited for a move"), [head], gets=lost)


WALKERS = (
    Walker(
        kind="lost",
        summary="references of a THP that the kernel itself lost",
        frees="nothing does, the memory is gone until a restart: 5.10 loses it when a part of a THP is unmapped that is"
        " being moved; 6.1 does not",
        walk=walk,
    ),
)
