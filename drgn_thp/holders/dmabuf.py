# SPDX-License-Identifier: LGPL-2.1-or-later
"""
DMA buffers: those that are made of the pages of memfds (udmabuf), and those of the system heap.

What others export is known to their drivers only: there is no list of pages that all of them would have.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy

from .ground import Ground
from .model import Claim, Damaged, Owner, Walker
from .scatter import Scatter

BUFFER, UDMABUF, ITEM = "struct dma_buf", "struct udmabuf", "struct udmabuf_folio"
HEAP = "struct system_heap_buffer"
MAX_PAGES = 1 << 23


def walk(ground: Ground) -> Iterator[Claim]:
    """Yield the pages of each buffer."""
    for file, buffer in exported(ground, ground.symbol("udmabuf_ops", "udmabuf")):
        with ground.part(f"udmabuf {buffer:#x}"):
            pinned, pages = _pages(ground, ground.pointer(BUFFER, buffer, "priv"))
            owner = Owner(described(ground, buffer), file=file)
            yield Claim(owner, ground.pfns(pages), gets=0 if pinned else 1, pins=int(pinned))


def walk_heap(ground: Ground) -> Iterator[Claim]:
    """Yield the pages of each buffer: pieces that are pages of some order, of each of which there is one reference."""
    scatter = Scatter(ground)
    for file, buffer in exported(ground, ground.symbol("system_heap_buf_ops")):
        with ground.part(f"buffer of the system heap {buffer:#x}"):
            own = ground.pointer(BUFFER, buffer, "priv")
            count = ground.uint(HEAP, own, "sg_table.orig_nents")
            if count > MAX_PAGES:
                raise Damaged(f"{count} pieces")
            first, numbers = scatter.pieces(ground.pointer(HEAP, own, "sg_table.sgl"), count)
            pages = ground.pfns(scatter.spread(first, numbers))
            gets = numpy.isin(pages, ground.pfns(first)).astype(numpy.int64)
            yield Claim(Owner(described(ground, buffer), file=file), pages, gets=gets)


def exported(ground: Ground, operations: int | None) -> Iterator[tuple[int, int]]:
    """Yield file and ``struct dma_buf`` of the buffers of one exporter."""
    for file, buffer in ground.files.having([ground.symbol("dma_buf_fops")]):
        with ground.part(f"dma-buf {buffer:#x}"):
            if ground.pointer(BUFFER, buffer, "ops") == operations:
                yield file, buffer


def described(ground: Ground, buffer: int) -> str:
    """
    Return of a ``struct dma_buf`` who exported it, and its size.

    :raises FaultError: if that cannot be read
    """
    name = ground.prog.read_c_string(ground.pointer(BUFFER, buffer, "exp_name"), max_size=64)
    size = ground.pointer(BUFFER, buffer, "size")
    return f"DMA buffer of {name.decode('utf-8', 'backslashreplace')}, {size >> 10} KiB"


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
    Walker(
        kind="dma-heap",
        summary="a page of a DMA buffer that the system heap made",
        frees="close the DMA buffer and all that imported it",
        walk=walk_heap,
        types=(HEAP,),
        symbols=("system_heap_buf_ops",),
    ),
)
