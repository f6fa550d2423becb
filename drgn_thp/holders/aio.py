# SPDX-License-Identifier: LGPL-2.1-or-later
"""
AIO: the rings of io_setup(2).

They are in a page cache, and the context has a reference besides, which aio_migrate_folio() expects: such a page is
moved all the same.
"""

from __future__ import annotations

from collections.abc import Iterator

from .ground import Ground
from .model import Claim, Damaged, Owner, Walker

CONTEXT, TABLE = "struct kioctx", "struct kioctx_table"
MAX_CONTEXTS = 1 << 20
MAX_RING = 1 << 16


def contexts(ground: Ground) -> Iterator[tuple[int, int]]:
    """Yield each ``struct mm_struct`` with each of its ``struct kioctx``."""
    for mm in sorted(ground.files.processes["mm"]):
        with ground.part(f"AIO contexts of mm {mm:#x}"):
            table = ground.pointer("struct mm_struct", mm, "ioctx_table") if ground.has(TABLE) else 0
            if not table:
                continue
            count = ground.uint(TABLE, table, "nr")
            if count > MAX_CONTEXTS:
                raise Damaged(f"{count} contexts")
            for context in ground.words(table + ground.offset(TABLE, "table"), count).tolist():
                if context:
                    yield mm, context


def walk(ground: Ground) -> Iterator[Claim]:
    """Yield the pages of each context's ring."""
    # Folios in v6.12, pages in v6.1.
    ring = next(name for name in ("ring_folios", "ring_pages") if ground.has(CONTEXT, name))
    for mm, context in contexts(ground):
        with ground.part(f"AIO context {context:#x}"):
            pages = ground.uint(CONTEXT, context, "nr_pages")
            if pages > MAX_RING:
                raise Damaged(f"a ring of {pages} pages")
            held = ground.words(ground.pointer(CONTEXT, context, ring), pages)
            yield Claim(Owner("ring", mm=mm), ground.pfns(held), gets=1)


WALKERS = (
    Walker(
        kind="aio",
        summary="a page of a ring of io_setup(2)",
        frees="nothing needs to: it can be moved; io_destroy(2), or the end of the process",
        walk=walk,
        types=(CONTEXT, TABLE),
    ),
)
