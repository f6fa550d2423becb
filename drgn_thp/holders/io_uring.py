# SPDX-License-Identifier: LGPL-2.1-or-later
"""io_uring: buffers that are registered (fixed), and memory of a process that it was given for its rings."""

from __future__ import annotations

from collections.abc import Iterator

from .ground import Ground
from .model import Claim, Damaged, Owner, Walker

CONTEXT, BUFFER, REGION = "struct io_ring_ctx", "struct io_mapped_ubuf", "struct io_mapped_region"
MAX_BUFFERS = 1 << 16  # IORING_MAX_REG_BUFFERS is 1 << 14
MAX_BVECS = 1 << 22
_KERNEL_BUFFER = 1  # IO_REGBUF_F_KBUF: pages of a request, not pinned by io_uring
_USER_PROVIDED = 2  # IO_REGION_F_USER_PROVIDED


def walk(ground: Ground) -> Iterator[Claim]:
    """Yield the pages of every registered buffer, each of which is pinned once for each bvec that it has."""
    # A buffer that was cloned is one structure in several rings: its pages are pinned once.
    shared: dict[int, list[tuple[int, int]]] = {}
    for file, ring in ground.files.having([ground.symbol("io_uring_fops")]):
        with ground.part(f"io_uring {ring:#x}"):
            for index, buffer in _buffers(ground, ring):
                shared.setdefault(buffer, []).append((index, file))
            yield from _regions(ground, ring, file)
    for buffer, places in shared.items():
        with ground.part(f"buffer {buffer:#x}"):
            if ground.has(BUFFER, "flags") and ground.uint(BUFFER, buffer, "flags") & _KERNEL_BUFFER:
                continue
            count = ground.uint(BUFFER, buffer, "nr_bvecs")
            if count > MAX_BVECS:
                raise Damaged(f"{count} bvecs")
            words = ground.size("struct bio_vec") // 8
            bvecs = ground.words(buffer + ground.offset(BUFFER, "bvec"), count * words).reshape(count, words)
            files = tuple(dict.fromkeys(file for _, file in places))
            owner = Owner(f"fixed buffer {places[0][0]}", file=files[0], more_files=files[1:])
            yield Claim(owner, ground.pfns(bvecs[:, ground.offset("struct bio_vec", "bv_page") // 8]), pins=1)


def _buffers(ground: Ground, ring: int) -> Iterator[tuple[int, int]]:
    """Yield number and address of each registered buffer of a ring."""
    by_node = ground.has(CONTEXT, "buf_table")  # v6.12 and older have user_bufs
    table, number = ("buf_table.nodes", "buf_table.nr") if by_node else ("user_bufs", "nr_user_bufs")
    count = ground.uint(CONTEXT, ring, number)
    if count > MAX_BUFFERS:
        raise Damaged(f"{count} registered buffers")
    for index, entry in enumerate(ground.words(ground.pointer(CONTEXT, ring, table), count).tolist() if count else ()):
        if entry:
            yield index, ground.pointer("struct io_rsrc_node", entry, "buf") if by_node else entry


def _regions(ground: Ground, ring: int, file: int) -> Iterator[Claim]:
    """Yield the rings' own memory where the process provided it: pinned pages. Regions are newer than v6.12."""
    for member, what in (("ring_region", "rings"), ("sq_region", "submission queue"), ("param_region", "parameters")):
        if not ground.has(CONTEXT, f"{member}.flags"):
            continue
        if ground.uint(CONTEXT, ring, f"{member}.flags") & _USER_PROVIDED:
            count = ground.uint(CONTEXT, ring, f"{member}.nr_pages")
            if count > MAX_BVECS:
                raise Damaged(f"{count} pages for {what}")
            pages = ground.words(ground.pointer(CONTEXT, ring, f"{member}.pages"), count)
            yield Claim(Owner(what, file=file), ground.pfns(pages), pins=1)


WALKERS = (
    Walker(
        kind="io-uring",
        summary="a page of a buffer that is registered with io_uring",
        frees="unregister the buffers (IORING_UNREGISTER_BUFFERS), or close the ring and unmap it",
        walk=walk,
        types=(CONTEXT, BUFFER, "struct bio_vec"),
        symbols=("io_uring_fops",),
    ),
)
