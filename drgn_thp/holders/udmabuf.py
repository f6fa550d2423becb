# SPDX-License-Identifier: LGPL-2.1-or-later
"""udmabuf: pages of a memfd that were made a dma-buf."""

from __future__ import annotations

from collections.abc import Iterator

import numpy

from ..folios import Column
from .ground import Ground
from .model import Claim, Damaged, Owner, Walker

DMA_BUF, UDMABUF, FOLIO = "struct dma_buf", "struct udmabuf", "struct udmabuf_folio"
MAX_PAGES = 1 << 22


def walk(ground: Ground) -> Iterator[Claim]:
    """Yield what each udmabuf has pinned."""
    own = ground.symbol("udmabuf_ops")
    for file, buffer in ground.files.having([ground.symbol("dma_buf_fops")]):
        with ground.part(f"dma-buf {buffer:#x}"):
            if ground.pointer(DMA_BUF, buffer, "ops") != own:
                continue
            pages, pinned = _pages(ground, ground.pointer(DMA_BUF, buffer, "priv"))
            yield Claim(Owner("udmabuf", file=file), ground.pfns(pages), gets=not pinned, pins=pinned)


def _pages(ground: Ground, udmabuf: int) -> tuple[Column, bool]:
    """Return pages, and whether they are pinned: since v6.12, as FOLL_LONGTERM does."""
    if ground.has(UDMABUF, "pinned_folios"):  # newer than v6.12
        return _array(ground, udmabuf, "pinned_folios", "nr_pinned"), True
    if ground.has(UDMABUF, "unpin_list"):
        link, folio = ground.offset(FOLIO, "list"), ground.offset(FOLIO, "folio")
        head = udmabuf + ground.offset(UDMABUF, "unpin_list")
        found = [ground.word(entry + folio) for entry in ground.entries(head, link)]
        return numpy.array(found, numpy.uint64), True
    return _array(ground, udmabuf, "pages", "pagecount"), False


def _array(ground: Ground, udmabuf: int, member: str, number: str) -> Column:
    count = ground.uint(UDMABUF, udmabuf, number)
    if count > MAX_PAGES:
        raise Damaged(f"{count} pages")
    return ground.words(ground.pointer(UDMABUF, udmabuf, member), count)


WALKERS = (
    Walker(
        kind="udmabuf",
        summary="a page of a memfd that is part of a dma-buf",
        frees="close the dma-buf, and whatever has imported it",
        walk=walk,
        types=(UDMABUF, DMA_BUF),
        symbols=("udmabuf_ops",),
        module="udmabuf",
    ),
)
