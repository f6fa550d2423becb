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
LIST = "struct io_buffer_list"
_LISTS = 64  # BGID_ARRAY
_MMAPPED = 2  # IOBL_MMAP
_NO_MMAP = 1 << 14  # IORING_SETUP_NO_MMAP
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
            yield from _own_rings(ground, ring, file)
            yield from _provided(ground, ring, file)
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
            yield _pages(ground, ground.pointer(CONTEXT, ring, f"{member}.pages"), count, what, file)


def _pages(ground: Ground, address: int, count: int, what: str, file: int) -> Claim:
    """Return the claim on an array of pinned pages."""
    if count > MAX_BVECS:
        raise Damaged(f"{count} pages for {what}")
    return Claim(Owner(what, file=file), ground.pfns(ground.words(address, count)), pins=1)


def _own_rings(ground: Ground, ring: int, file: int) -> Iterator[Claim]:
    """
    Yield the rings where they are in memory of the process, before there were regions.

    03d89a2de25b ("io_uring: support for user allocated memory for rings/sqes") (in v6.5, and in stable kernels)
    """
    if not ground.has(CONTEXT, "n_ring_pages") or not ground.uint(CONTEXT, ring, "flags") & _NO_MMAP:
        return
    for number, pages, what in (
        ("n_ring_pages", "ring_pages", "rings"),
        ("n_sqe_pages", "sqe_pages", "submission queue"),
    ):
        count = ground.uint(CONTEXT, ring, number)
        if count:
            yield _pages(ground, ground.pointer(CONTEXT, ring, pages), count, what, file)


def _provided(ground: Ground, ring: int, file: int) -> Iterator[Claim]:
    """
    Yield the rings of provided buffers that are in memory of the process.

    c7fb19428d67 ("io_uring: add support for ring mapped supplied buffers") (in v5.19)
    """
    if not ground.has(LIST):
        return
    lists = []
    if ground.has(CONTEXT, "io_bl"):  # the first 64 of them, until v6.9
        array = ground.pointer(CONTEXT, ring, "io_bl")
        lists += [array + i * ground.size(LIST) for i in range(_LISTS)] if array else []
    if ground.has(CONTEXT, "io_bl_xa"):
        lists += [entry for _, entry in ground.xarray(ring + ground.offset(CONTEXT, "io_bl_xa"))]
    for entry in lists:
        with ground.part(f"buffers {entry:#x}"):
            group = f"ring of buffers {ground.uint(LIST, entry, 'bgid')}"
            if ground.has(LIST, "region"):
                if ground.uint(LIST, entry, "region.flags") & _USER_PROVIDED:
                    count = ground.uint(LIST, entry, "region.nr_pages")
                    yield _pages(ground, ground.pointer(LIST, entry, "region.pages"), count, group, file)
            elif not _is_kernels(ground, entry):
                count = ground.uint(LIST, entry, "buf_nr_pages")
                if count:  # else what is in its place is a list of buffers
                    yield _pages(ground, ground.pointer(LIST, entry, "buf_pages"), count, group, file)


def _is_kernels(ground: Ground, entry: int) -> bool:
    """Return whether the kernel has allocated a ring of buffers: since v6.4."""
    if ground.has(LIST, "is_mmap"):
        return bool(ground.uint(LIST, entry, "is_mmap"))
    return ground.has(LIST, "flags") and bool(ground.uint(LIST, entry, "flags") & _MMAPPED)


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
