# SPDX-License-Identifier: LGPL-2.1-or-later
"""
DMA buffers whose pages only their drivers know: that there are any is said, as pages may be held that nobody explains.

Nothing is claimed. What drivers note of pages, and whether they take references on them, differs too much.
"""

from __future__ import annotations

from collections.abc import Iterator

from .dmabuf import BUFFER, described
from .drm import OBJECT, known_functions, prime
from .ground import Ground
from .model import Claim, Damaged, Walker


def walk(ground: Ground) -> Iterator[Claim]:
    """Count the buffers that no other walker follows, with who made them, their size, and a process that has one."""
    known = {ground.symbol("udmabuf_ops", "udmabuf"), ground.symbol("system_heap_buf_ops")}
    graphics, functions = prime(ground), known_functions(ground)
    for file, buffer in ground.files.having([ground.symbol("dma_buf_fops")]):
        with ground.part(f"buffer {buffer:#x}"):
            operations = ground.pointer(BUFFER, buffer, "ops")
            if operations in known:
                continue
            if operations == graphics and ground.has(OBJECT):
                entry = ground.pointer(BUFFER, buffer, "priv")
                if ground.pointer(OBJECT, entry, "funcs") in functions:
                    continue
            who = "".join(f", open in {one.pid}" for one in ground.files.descriptors(file)[:1])
            raise Damaged(f"{described(ground, buffer)}{who}: only its driver knows which pages it has")
    yield from ()


WALKERS = (
    Walker(
        kind="dma-buf",
        summary="a page of a DMA buffer of another exporter: counted, and not found",
        frees="close the DMA buffer and all that imported it",
        walk=walk,
        types=(BUFFER,),
        symbols=("dma_buf_fops",),
    ),
)
