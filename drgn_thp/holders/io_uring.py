# SPDX-License-Identifier: LGPL-2.1-or-later
"""io_uring: buffers that are registered (fixed), and memory of a process that it was given for its rings."""

from __future__ import annotations

from collections.abc import Iterator

from .ground import Ground
from .model import Claim, Damaged, Owner, Walker

CONTEXT, BUFFER, REGION = "struct io_ring_ctx", "struct io_mapped_ubuf", "struct io_mapped_region"
LIST, QUEUE, AREA = "struct io_buffer_list", "struct io_zcrx_ifq", "struct io_zcrx_area"
MAX_BUFFERS = 1 << 16  # IORING_MAX_REG_BUFFERS is 1 << 14
MAX_BVECS = 1 << 22
_KERNEL_BUFFER = 1  # IO_REGBUF_F_KBUF: pages of a request, not pinned by io_uring
_USER_PROVIDED = 2  # IO_REGION_F_USER_PROVIDED
_SETUP_NO_MMAP = 1 << 14  # IORING_SETUP_NO_MMAP
_MMAP = 2  # IOBL_MMAP: the kernel's own pages
_ARRAY = 64  # BGID_ARRAY


def walk(ground: Ground) -> Iterator[Claim]:
    """Yield the pages of every registered buffer, each of which is pinned once for each bvec that it has."""
    # A buffer that was cloned is one structure in several rings: its pages are pinned once.
    shared: dict[int, list[tuple[int, int]]] = {}
    for file, ring in ground.files.having([ground.symbol("io_uring_fops")]):
        with ground.part(f"io_uring {ring:#x}"):
            for index, buffer in _buffers(ground, ring):
                shared.setdefault(buffer, []).append((index, file))
            yield from _regions(ground, ring, file)
            yield from _provided(ground, ring, file)
    yield from _received(ground)
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
    """Yield the rings' own memory where the process provided it: pinned pages."""
    for member, what in (("ring_region", "rings"), ("sq_region", "submission queue"), ("param_region", "parameters")):
        if ground.has(CONTEXT, f"{member}.flags"):
            yield from _region(ground, ring + ground.offset(CONTEXT, member), Owner(what, file=file))
    # v6.12 and older have arrays, which v6.1 and older leave empty: all pages are the kernel's there.
    if ground.has(CONTEXT, "ring_pages") and ground.uint(CONTEXT, ring, "flags") & _SETUP_NO_MMAP:
        for array, number, what in (
            ("ring_pages", "n_ring_pages", "rings"),
            ("sqe_pages", "n_sqe_pages", "submission queue"),
        ):
            count = ground.uint(CONTEXT, ring, number)
            pages = ground.words(ground.pointer(CONTEXT, ring, array), count) if count else []
            yield Claim(Owner(what, file=file), ground.pfns(pages), pins=1)


def _region(ground: Ground, region: int, owner: Owner) -> Iterator[Claim]:
    if ground.uint(REGION, region, "flags") & _USER_PROVIDED:
        count = ground.uint(REGION, region, "nr_pages")
        if count > MAX_BVECS:
            raise Damaged(f"{count} pages for {owner.what}")
        yield Claim(owner, ground.pfns(ground.words(ground.pointer(REGION, region, "pages"), count)), pins=1)


def _provided(ground: Ground, ring: int, file: int) -> Iterator[Claim]:
    """Yield rings of provided buffers that the process provided: pinned pages. They are newer than v5.10."""
    if not ground.has(LIST) or not ground.has(CONTEXT, "io_bl_xa"):
        return
    lists = [address for _, address in ground.xarray(ring + ground.offset(CONTEXT, "io_bl_xa"))]
    # The first of them were in an array apart, up to v6.6.
    if ground.has(CONTEXT, "io_bl"):
        array = ground.pointer(CONTEXT, ring, "io_bl")
        lists += [array + i * ground.size(LIST) for i in range(_ARRAY if array else 0)]
    for address in lists:
        with ground.part(f"list of buffers {address:#x}"):
            owner = Owner(f"ring of buffers {ground.uint(LIST, address, 'bgid')}", file=file)
            if ground.has(LIST, "region"):
                yield from _region(ground, address + ground.offset(LIST, "region"), owner)
                continue
            count = ground.uint(LIST, address, "buf_nr_pages")
            # Before there are flags, v6.4 to v6.7 say so in a member of its own, and older ones have no others.
            by_kernel = (
                ground.uint(LIST, address, "flags") & _MMAP
                if ground.has(LIST, "flags")
                else ground.has(LIST, "is_mmap") and ground.uint(LIST, address, "is_mmap")
            )
            if count and not by_kernel:
                pages = ground.words(ground.pointer(LIST, address, "buf_pages"), count)
                yield Claim(owner, ground.pfns(pages), pins=1)


def _received(ground: Ground) -> Iterator[Claim]:
    """Yield memory that packets are received into without a copy, which several rings may share. As of v7.3."""
    if not ground.has(QUEUE, "nr_areas"):
        return
    shared: dict[int, list[int]] = {}
    for file, ring in ground.files.having([ground.symbol("io_uring_fops")]):
        with ground.part(f"io_uring {ring:#x}"):
            for _, queue in ground.xarray(ring + ground.offset(CONTEXT, "zcrx_ctxs")):
                shared.setdefault(queue, []).append(file)
    for file, queue in ground.files.having([ground.symbol("zcrx_box_fops")]):
        shared.setdefault(queue, []).append(file)
    for queue, files in shared.items():
        with ground.part(f"reception {queue:#x}"):
            more = tuple(files[1:])
            yield from _region(ground, queue + ground.offset(QUEUE, "rq_region"), Owner("refill ring", files[0], more))
            count = ground.uint(QUEUE, queue, "nr_areas")
            if count > MAX_BUFFERS:
                raise Damaged(f"{count} areas")
            for area in ground.words(ground.pointer(QUEUE, queue, "areas"), count).tolist():
                if area and not ground.uint(AREA, area, "mem.is_dmabuf"):
                    pages = ground.uint(AREA, area, "mem.nr_folios")
                    if pages > MAX_BVECS:
                        raise Damaged(f"{pages} pages")
                    array = ground.words(ground.pointer(AREA, area, "mem.pages"), pages)
                    yield Claim(Owner("area to receive into", files[0], more), ground.pfns(array), pins=1)


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
