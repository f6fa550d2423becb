# SPDX-License-Identifier: LGPL-2.1-or-later
"""AIO: the rings in which a process is told of requests that are done. They can be moved, and yet are held."""

from __future__ import annotations

from collections.abc import Iterator

from .ground import Ground
from .model import Claim, Damaged, Owner, Walker

MM, TABLE, CONTEXT = "struct mm_struct", "struct kioctx_table", "struct kioctx"
MAX_CONTEXTS = 1 << 20
MAX_PAGES = 1 << 16


def contexts(ground: Ground) -> Iterator[tuple[int, int]]:
    """Yield mm and ``struct kioctx`` of each context of AIO."""
    for mm in sorted(ground.files.processes["mm"]):
        with ground.part(f"AIO of mm {mm:#x}"):
            table = ground.pointer(MM, mm, "ioctx_table")
            if not table:
                continue
            count = ground.uint(TABLE, table, "nr")
            if count > MAX_CONTEXTS:
                raise Damaged(f"{count} contexts")
            for context in ground.words(table + ground.offset(TABLE, "table"), count).tolist():
                if context:
                    yield mm, context


def walk(ground: Ground) -> Iterator[Claim]:
    """Yield the pages of each ring."""
    # Folios by v6.12, pages in v6.1.
    member = "ring_folios" if ground.has(CONTEXT, "ring_folios") else "ring_pages"
    for mm, context in contexts(ground):
        with ground.part(f"kioctx {context:#x}"):
            count = ground.uint(CONTEXT, context, "nr_pages")
            if count > MAX_PAGES:
                raise Damaged(f"{count} pages")
            pages = ground.words(ground.pointer(CONTEXT, context, member), count)
            yield Claim(Owner("ring of AIO", mm=mm), ground.pfns(pages), gets=1)


WALKERS = (
    Walker(
        kind="aio",
        summary="a page of the ring in which AIO tells what is done; it can be moved all the same",
        frees="io_destroy(2), or the end of the process",
        walk=walk,
        types=(TABLE, CONTEXT),
        symbols=("aio_complete_rw",),
    ),
)
