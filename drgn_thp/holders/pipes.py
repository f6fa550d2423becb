# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pipes: pages that vmsplice(2), splice(2), tee(2) or sendfile(2) put into them, and those that write(2) filled."""

from __future__ import annotations

from collections.abc import Iterator

import numpy

from .ground import Ground
from .model import Claim, Damaged, Owner, Walker

PIPE = "struct pipe_inode_info"
OPERATIONS = ("pipefifo_fops", "pipeanon_fops")  # newer kernels have the second for pipes without a name
MAX_RING = 1 << 20


def walk(ground: Ground) -> Iterator[Claim]:
    """Yield what is in each pipe; both of its ends have it."""
    buffer_size = ground.size("struct pipe_buffer")
    page_at = ground.offset("struct pipe_buffer", "page") // 8
    ends: dict[int, list[int]] = {}
    for file, pipe in ground.files.having(ground.symbol(name) for name in OPERATIONS):
        if pipe:
            ends.setdefault(pipe, []).append(file)
    for pipe, files in ends.items():
        with ground.part(f"pipe {pipe:#x}"):
            # Since 8cefc107ca54 ("pipe: Use head and tail pointers for the ring, not cursor and length") (in v5.5).
            # In newer kernels they are in a union and of 16 bits on some architectures, and wrap at that.
            head, tail = ground.uint(PIPE, pipe, "head"), ground.uint(PIPE, pipe, "tail")
            width = ground.type(PIPE).member("head").type.unaliased().size or 4
            used = (head - tail) & ((1 << 8 * width) - 1)
            ring = ground.uint(PIPE, pipe, "ring_size")
            if not used:
                continue
            if ring & (ring - 1) or used > ring or ring > MAX_RING:
                raise Damaged(f"{used} of {ring} slots are in use")
            buffers = ground.words(ground.pointer(PIPE, pipe, "bufs"), ring * buffer_size // 8)
            slots = (tail + numpy.arange(used)) & (ring - 1)
            pages = buffers.reshape(ring, buffer_size // 8)[slots, page_at]
            yield Claim(Owner("pipe", file=files[0], more_files=tuple(files[1:])), ground.pfns(pages), gets=1)


WALKERS = (
    Walker(
        kind="pipe",
        summary="a page that is in a pipe: vmsplice(2), splice(2), tee(2), or written",
        frees="read the pipe until it is empty, or close both of its ends",
        walk=walk,
        types=(PIPE, "struct pipe_buffer"),
        symbols=OPERATIONS,
    ),
)
