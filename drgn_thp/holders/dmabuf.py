# SPDX-License-Identifier: LGPL-2.1-or-later
"""udmabuf: DMA buffers made of the pages of memfds. Those of other exporters name no pages that all of them would."""

from __future__ import annotations

from collections.abc import Iterator

from .ground import Ground
from .model import Claim, Damaged, Owner, Walker

BUFFER, UDMABUF, ITEM = "struct dma_buf", "struct udmabuf", "struct udmabuf_folio"
MAX_PAGES = 1 << 23


def walk(ground: Ground) -> Iterator[Claim]:
    """Yield the pages of each buffer."""
    operations = ground.symbol("udmabuf_ops", "udmabuf")
    for file, buffer in ground.files.having([ground.symbol("dma_buf_fops")]):
        with ground.part(f"dma-buf {buffer:#x}"):
            if ground.pointer(BUFFER, buffer, "ops") != operations:
                continue
            own = ground.pointer(BUFFER, buffer, "priv")
            pinned, pages = _pages(ground, own)
            yield Claim(Owner("udmabuf", file=file), ground.pfns(pages), gets=0 if pinned else 1, pins=int(pinned))


def _pages(ground: Ground, own: int) -> tuple[bool, object]:
    """Return whether pages are pinned, and their addresses."""
    # Folios, once for each time that they were pinned: an array in v7.3, a list in v6.12. Before that, pages that have
    # a reference each.
    if ground.has(UDMABUF, "nr_pinned"):
        count = ground.uint(UDMABUF, own, "nr_pinned")
        if count > MAX_PAGES:
            raise Damaged(f"{count} folios")
        return True, ground.words(ground.pointer(UDMABUF, own, "pinned_folios"), count)
    if ground.has(UDMABUF, "unpin_list"):
        at, folio_at = ground.offset(ITEM, "list"), ground.offset(ITEM, "folio")
        head = own + ground.offset(UDMABUF, "unpin_list")
        return True, [ground.word(item + folio_at) for item in ground.entries(head, at)]
    count = ground.uint(UDMABUF, own, "pagecount")
    if count > MAX_PAGES:
        raise Damaged(f"{count} pages")
    return False, ground.words(ground.pointer(UDMABUF, own, "pages"), count)


WALKERS = (
    Walker(
        kind="udmabuf",
        summary="a page of a memfd that a DMA buffer was made of",
        frees="close the DMA buffer and all that imported it",
        walk=walk,
        types=(BUFFER, UDMABUF),
        symbols=("udmabuf_ops",),
        module="udmabuf",
    ),
)
