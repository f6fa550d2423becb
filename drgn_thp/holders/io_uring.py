# SPDX-License-Identifier: LGPL-2.1-or-later
"""
io_uring: buffers that are registered (fixed), and memory of a process that it was given for its rings.

A ring whose last descriptor was closed keeps all that until a work item has torn it down: that waits for requests that
are on their way, and for the processes that have used the ring, which have to do a bit of it themselves. No file leads
to the ring by then. It lets go by itself, unless a process that it waits for is stopped.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from .ground import Ground
from .model import Claim, Damaged, Owner, Walker
from .works import works

CONTEXT, BUFFER, REGION = "struct io_ring_ctx", "struct io_mapped_ubuf", "struct io_mapped_region"
LIST, USER, TASK = "struct io_buffer_list", "struct io_tctx_node", "struct task_struct"
QUEUE, AREA = "struct io_zcrx_ifq", "struct io_zcrx_area"
MAX_BUFFERS = 1 << 16  # IORING_MAX_REG_BUFFERS is 1 << 14
MAX_BVECS = 1 << 22
_KERNEL_BUFFER = 1  # IO_REGBUF_F_KBUF: pages of a request, not pinned by io_uring
_USER_PROVIDED = 2  # IO_REGION_F_USER_PROVIDED
_SETUP_NO_MMAP = 1 << 14  # IORING_SETUP_NO_MMAP
_MMAP = 2  # IOBL_MMAP: the kernel's own pages
_ARRAY = 64  # BGID_ARRAY
_EXIT = "io_ring_exit_work"
# Of a task that does nothing, not even what the kernel asks of it: __TASK_STOPPED, __TASK_TRACED, and TASK_FROZEN since
# f5d39b020809 ("freezer,sched: Rewrite core freezer logic") (in v6.1). No older kernel has that bit.
_STOPPED = 4 | 8 | 0x8000
MAX_USERS = 1 << 16


@dataclass(frozen=True)
class _Ring:
    """
    One ring.

    :ivar file: 0 if it is being closed
    :ivar task: Of one that is being closed: who has used it
    :ivar state: What is to be said of it besides
    :ivar transient: Whether it goes away by itself
    :ivar more_files: Of others that have the same things
    """

    address: int
    file: int = 0
    task: int = 0
    state: str = ""
    transient: bool = False
    more_files: tuple[int, ...] = ()

    def owner(self, what: str) -> Owner:
        return Owner(what + self.state, file=self.file, more_files=self.more_files, task=self.task)

    def claim(self, what: str, ground: Ground, pages: int, count: int) -> Claim:
        """Claim what is in an array of pages, each of which is pinned once."""
        found = ground.words(pages, count) if count else []
        return Claim(self.owner(what), ground.pfns(found), pins=1, transient=self.transient)


def walk(ground: Ground) -> Iterator[Claim]:
    """Yield the pages of every registered buffer, each of which is pinned once for each bvec that it has."""
    # A buffer that was cloned is one structure in several rings: its pages are pinned once.
    shared: dict[int, list[tuple[int, _Ring]]] = {}
    rings = list(_rings(ground))
    for ring in rings:
        with ground.part(f"io_uring {ring.address:#x}"):
            for index, buffer in _buffers(ground, ring.address):
                shared.setdefault(buffer, []).append((index, ring))
            yield from _regions(ground, ring)
            yield from _provided(ground, ring)
    yield from _received(ground, rings)
    for buffer, places in shared.items():
        with ground.part(f"buffer {buffer:#x}"):
            if ground.has(BUFFER, "flags") and ground.uint(BUFFER, buffer, "flags") & _KERNEL_BUFFER:
                continue
            count = ground.uint(BUFFER, buffer, "nr_bvecs")
            if count > MAX_BVECS:
                raise Damaged(f"{count} bvecs")
            words = ground.size("struct bio_vec") // 8
            bvecs = ground.words(buffer + ground.offset(BUFFER, "bvec"), count * words).reshape(count, words)
            pages = ground.pfns(bvecs[:, ground.offset("struct bio_vec", "bv_page") // 8])
            ring = _together([ring for _, ring in places])
            yield Claim(ring.owner(f"fixed buffer {places[0][0]}"), pages, pins=1, transient=ring.transient)


def _together(rings: list[_Ring]) -> _Ring:
    """Return what stands for several rings that share a thing: it goes when all of them have gone."""
    files = tuple(dict.fromkeys(ring.file for ring in rings if ring.file))
    first = next((ring for ring in rings if ring.file), rings[0])
    return replace(first, more_files=files[1:], transient=all(ring.transient for ring in rings))


def _rings(ground: Ground) -> Iterator[_Ring]:
    """Yield those that a file leads to, and then those that are being closed."""
    open_ones = set()
    for file, address in ground.files.having([ground.symbol("io_uring_fops")]):
        open_ones.add(address)
        yield _Ring(address, file)
    if not ground.has(CONTEXT, "exit_work"):
        return  # v5.4 and older do it at once
    with ground.part("rings that are being closed"):
        function = ground.symbol(_EXIT)
        if function is None:
            raise Damaged(f"the address of {_EXIT}() is not known")
        try:
            found = [work - ground.offset(CONTEXT, "exit_work") for work in works(ground, function)]
        except LookupError as error:
            raise Damaged(str(error)) from None
        for address in found:
            if address not in open_ones:
                with ground.part(f"io_uring {address:#x}"):
                    yield _closing(ground, address)


def _closing(ground: Ground, address: int) -> _Ring:
    users = _users(ground, address)
    stopped = [task for task in users if _is_stopped(ground, task)]
    state = ", ring being closed" + ", which waits for a process that is stopped" * bool(stopped)
    return _Ring(address, 0, (stopped or users or [0])[0], state, not stopped)


def _users(ground: Ground, ring: int) -> list[int]:
    """Return the tasks that have used a ring, and have not been told yet that it is no more."""
    if not ground.has(USER):
        return []  # v5.10 as it was released: nobody is waited for
    node = ground.offset(USER, "ctx_node")
    nodes = ground.entries(ring + ground.offset(CONTEXT, "tctx_list"), node, MAX_USERS)
    return [ground.pointer(USER, user, "task") for user in nodes]


def _is_stopped(ground: Ground, task: int) -> bool:
    # 2f064a59a11f ("sched: Change task_struct::state") (in v5.14)
    state = "__state" if ground.has(TASK, "__state") else "state"
    if ground.uint(TASK, task, state) & _STOPPED:
        return True
    # By its cgroup. It does what it is asked in that state since 943ad0b62e3c ("kernel: rerun task_work while freezing
    # in get_signal()") (in v6.11, and in stable kernels since), and then nobody waits for it.
    return ground.has(TASK, "frozen") and bool(ground.object(TASK, task).frozen.value_())


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


def _regions(ground: Ground, ring: _Ring) -> Iterator[Claim]:
    """Yield the rings' own memory where the process provided it: pinned pages."""
    for member, what in (("ring_region", "rings"), ("sq_region", "submission queue"), ("param_region", "parameters")):
        if ground.has(CONTEXT, f"{member}.flags"):
            yield from _region(ground, ring.address + ground.offset(CONTEXT, member), ring, what)
    # v6.12 and older have arrays, which v6.1 and older leave empty: all pages are the kernel's there.
    if ground.has(CONTEXT, "ring_pages") and ground.uint(CONTEXT, ring.address, "flags") & _SETUP_NO_MMAP:
        for array, number, what in (
            ("ring_pages", "n_ring_pages", "rings"),
            ("sqe_pages", "n_sqe_pages", "submission queue"),
        ):
            count = ground.uint(CONTEXT, ring.address, number)
            yield ring.claim(what, ground, ground.pointer(CONTEXT, ring.address, array), count)


def _region(ground: Ground, region: int, ring: _Ring, what: str) -> Iterator[Claim]:
    if ground.uint(REGION, region, "flags") & _USER_PROVIDED:
        count = ground.uint(REGION, region, "nr_pages")
        if count > MAX_BVECS:
            raise Damaged(f"{count} pages for {what}")
        yield ring.claim(what, ground, ground.pointer(REGION, region, "pages"), count)


def _provided(ground: Ground, ring: _Ring) -> Iterator[Claim]:
    """Yield rings of provided buffers that the process provided: pinned pages. They are newer than v5.10."""
    if not ground.has(LIST) or not ground.has(CONTEXT, "io_bl_xa"):
        return
    lists = [address for _, address in ground.xarray(ring.address + ground.offset(CONTEXT, "io_bl_xa"))]
    # The first of them were in an array apart, up to v6.6.
    if ground.has(CONTEXT, "io_bl"):
        array = ground.pointer(CONTEXT, ring.address, "io_bl")
        lists += [array + i * ground.size(LIST) for i in range(_ARRAY if array else 0)]
    for address in lists:
        with ground.part(f"list of buffers {address:#x}"):
            what = f"ring of buffers {ground.uint(LIST, address, 'bgid')}"
            if ground.has(LIST, "region"):
                yield from _region(ground, address + ground.offset(LIST, "region"), ring, what)
                continue
            count = ground.uint(LIST, address, "buf_nr_pages")
            # Before there are flags, v6.4 to v6.7 say so in a member of its own, and older ones have no others.
            by_kernel = (
                ground.uint(LIST, address, "flags") & _MMAP
                if ground.has(LIST, "flags")
                else ground.has(LIST, "is_mmap") and ground.uint(LIST, address, "is_mmap")
            )
            if count and not by_kernel:
                yield ring.claim(what, ground, ground.pointer(LIST, address, "buf_pages"), count)


def _received(ground: Ground, rings: list[_Ring]) -> Iterator[Claim]:
    """Yield memory that packets are received into without a copy, which several rings may share. As of v7.3."""
    if not ground.has(QUEUE, "nr_areas"):
        return
    shared: dict[int, list[_Ring]] = {}
    for ring in rings:
        with ground.part(f"io_uring {ring.address:#x}"):
            for _, queue in ground.xarray(ring.address + ground.offset(CONTEXT, "zcrx_ctxs")):
                shared.setdefault(queue, []).append(ring)
    for file, queue in ground.files.having([ground.symbol("zcrx_box_fops")]):
        shared.setdefault(queue, []).append(_Ring(queue, file))
    for queue, users in shared.items():
        with ground.part(f"reception {queue:#x}"):
            ring = _together(users)
            yield from _region(ground, queue + ground.offset(QUEUE, "rq_region"), ring, "refill ring")
            count = ground.uint(QUEUE, queue, "nr_areas")
            if count > MAX_BUFFERS:
                raise Damaged(f"{count} areas")
            for area in ground.words(ground.pointer(QUEUE, queue, "areas"), count).tolist():
                if area and not ground.uint(AREA, area, "mem.is_dmabuf"):
                    pages = ground.uint(AREA, area, "mem.nr_folios")
                    if pages > MAX_BVECS:
                        raise Damaged(f"{pages} pages")
                    array = ground.pointer(AREA, area, "mem.pages")
                    yield ring.claim("area to receive into", ground, array, pages)


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
