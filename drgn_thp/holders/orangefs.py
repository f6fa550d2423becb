# SPDX-License-Identifier: LGPL-2.1-or-later
"""OrangeFS: the memory that its client shares with the kernel, for as long as it runs."""

from __future__ import annotations

from collections.abc import Iterator

from .ground import Ground
from .model import Claim, Owner, Walker

BUFFERS = "struct orangefs_bufmap"
MAX_PAGES = 1 << 20


def walk(ground: Ground) -> Iterator[Claim]:
    """Yield the pages: there is one client, which alone may have the device open."""
    variable = ground.symbol("__orangefs_bufmap", "orangefs")
    assert variable is not None
    with ground.part("memory of OrangeFS"):
        buffers = ground.word(variable)
        if not buffers:
            return
        files = [
            file for file, _ in ground.files.having([ground.symbol("orangefs_devreq_file_operations", "orangefs")])
        ]
        count = ground.uint(BUFFERS, buffers, "page_count")
        pages = ground.page_array(ground.pointer(BUFFERS, buffers, "page_array"), count, MAX_PAGES)
        yield Claim(Owner.by_files("memory of the client", files), pages, pins=1)


WALKERS = (
    Walker(
        kind="orangefs",
        summary="a page of the memory through which the client of OrangeFS reads and writes",
        frees="end the client of OrangeFS (pvfs2-client-core)",
        walk=walk,
        types=(BUFFERS,),
        symbols=("__orangefs_bufmap",),
        module="orangefs",
    ),
)
