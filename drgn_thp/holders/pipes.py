# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pipes: pages that vmsplice(2), splice(2), tee(2) or sendfile(2) put into them, and those that write(2) filled."""

from __future__ import annotations

from collections.abc import Iterator

import numpy

from ..folios import Column
from ..structs import Struct
from .ground import Ground
from .model import Claim, Damaged, Owner, Walker

PIPE, BUFFER = "struct pipe_inode_info", "struct pipe_buffer"
OPERATIONS = ("pipefifo_fops", "pipeanon_fops")  # newer kernels have the second for pipes without a name
MAX_RING = 1 << 20


class Rings:
    """Reads the rings of buffers that pipes are."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        # Since 8cefc107ca54 ("pipe: Use head and tail pointers for the ring, not cursor and length") (in v5.5). In
        # newer kernels they are in a union and of 16 bits on some architectures, and wrap at that.
        self.struct = Struct(ground.prog, PIPE, ("head", "tail", "ring_size", "bufs"))
        self.words, self.page_at = ground.size(BUFFER) // 8, ground.offset(BUFFER, "page") // 8

    def contents(self, pipe: int) -> Column:
        """
        Return the addresses of the ``struct page`` that are in a pipe.

        :raises FaultError: if it cannot be read
        :raises Damaged: if it contradicts itself
        """
        values = self.struct.read(pipe)
        tail, ring = values["tail"], values["ring_size"]
        used = (values["head"] - tail) & ((1 << 8 * self.struct.width("head")) - 1)
        if not used:
            return numpy.zeros(0, numpy.uint64)
        if ring & (ring - 1) or used > ring or ring > MAX_RING:
            raise Damaged(f"{used} of {ring} slots are in use")
        buffers = self.ground.words(values["bufs"], ring * self.words)
        slots = (tail + numpy.arange(used)) & (ring - 1)
        pages: Column = buffers[slots * self.words + self.page_at]
        return pages


def walk(ground: Ground) -> Iterator[Claim]:
    """Yield what is in each pipe; both of its ends have it."""
    rings = Rings(ground)
    ends: dict[int, list[int]] = {}
    for file, pipe in ground.files.having(ground.symbol(name) for name in OPERATIONS):
        if pipe:
            ends.setdefault(pipe, []).append(file)
    for pipe, files in ends.items():
        with ground.part(f"pipe {pipe:#x}"):
            pages = rings.contents(pipe)
            if len(pages):
                yield Claim(Owner.by_files("pipe", files), ground.pfns(pages), gets=1)


WALKERS = (
    Walker(
        kind="pipe",
        summary="a page that is in a pipe: vmsplice(2), splice(2), tee(2), or written",
        frees="read the pipe until it is empty, or close both of its ends",
        walk=walk,
        types=(PIPE, BUFFER),
        symbols=OPERATIONS,
    ),
)
