# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Direct I/O in flight: pages that a disk reads into or writes from.

Not found is what has not become a request yet: what a plug or a throttled queue has, and what is in a stack of RAID.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy

from ..folios import Column
from .aio import contexts
from .ground import Ground
from .model import Claim, Damaged, Owner, Walker
from .requests import MAX_VECTORS, Bio, Requests
from .stacks import Stacks

IOCB, AIO, URING = "struct kiocb", "struct aio_kiocb", "struct io_kiocb"
BLKDEV, IOMAP, DIO = "struct blkdev_dio", "struct iomap_dio", "struct dio"
# Structures that the bio is a part of, by what ends it.
_AROUND = {"blkdev_bio_end_io_async": BLKDEV, "iomap_dio_simple_end_io": "struct iomap_dio_simple"}
# What ends direct I/O. Of a block device, ...
_BLKDEV = ("blkdev_bio_end_io", "blkdev_bio_end_io_async", "blkdev_bio_end_io_simple")
# ... of filesystems, and what is waited for on the stack of a task.
_OTHERS = (
    "iomap_dio_bio_end_io",
    "iomap_dio_simple_end_io",
    "dio_bio_end_aio",
    "dio_bio_end_io",
    "submit_bio_wait_endio",
)


def walk(ground: Ground) -> Iterator[Claim]:
    """Yield the pages of each bio."""
    requests, owners = Requests(ground), _Owners(ground)
    pinned, without, cloned = (_flag(ground, name) for name in ("BIO_PAGE_PINNED", "BIO_NO_PAGE_REF", "BIO_CLONED"))
    for bio in requests.bios():
        with ground.part(f"bio {bio.address:#x}"):
            flags = bio.members["bi_flags"]
            if flags & cloned or not bio.members["bi_vcnt"]:
                continue  # the vectors are somebody else's, or those of a buffer that is registered
            if pinned:
                # In v6.12 and newer, pages that are held are pinned.
                if not flags & pinned:
                    continue
            elif flags & without or bio.members["bi_end_io"] not in owners.ends:
                continue  # of the page cache, which has no reference for it
            number = (0, 1) if pinned else (1, 0)
            yield Claim(owners.of(bio), _pages(ground, bio), gets=number[0], pins=number[1])


def _flag(ground: Ground, name: str) -> int:
    try:
        return 1 << int(ground.prog.constant(name))
    except LookupError:
        return 0


def _pages(ground: Ground, bio: Bio) -> Column:
    """Return the page frames of a bio: each page of a vector has been referred to by itself."""
    vector = "struct bio_vec"
    count, width = bio.members["bi_vcnt"], ground.size(vector) // 8
    if count > MAX_VECTORS:
        raise Damaged(f"{count} vectors")
    data = ground.read(bio.members["bi_io_vec"], count * width * 8)
    words = numpy.frombuffer(data, ground.byteorder + "u8").reshape(count, width)
    halves = numpy.frombuffer(data, ground.byteorder + "u4").reshape(count, width * 2).astype(numpy.int64)
    first = ground.pfns(words[:, ground.offset(vector, "bv_page") // 8])
    length, offset = (halves[:, ground.offset(vector, name) // 4] for name in ("bv_len", "bv_offset"))
    if len(first) != count:
        raise Damaged("a vector without a page")
    shift = ground.context.kernel.page_shift
    begin, end = first + (offset >> shift), first + (offset + numpy.maximum(length, 1) - 1 >> shift) + 1
    if int((end - begin).sum()) > MAX_VECTORS * 16:
        raise Damaged(f"{int((end - begin).sum())} pages")
    return numpy.concatenate([numpy.arange(a, b) for a, b in zip(begin.tolist(), end.tolist())])


class _Owners:
    """Who waits for a bio, or will be told of its end."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self._stacks = Stacks(ground)
        self._mm = {context: mm for mm, context in contexts(ground)}
        self._blkdev, others = ({ground.symbol(name): name for name in names} for names in (_BLKDEV, _OTHERS))
        self._ends = {**others, **self._blkdev}
        self._ends.pop(None, None)
        self.ends = frozenset(self._ends)
        self._aio = ground.symbol("aio_complete_rw")
        self._uring = {ground.symbol(name) for name in ("io_complete_rw", "io_complete_rw_iopoll")} - {None}

    def of(self, bio: Bio) -> Owner:
        """Return the owner of a bio; if nothing is known of it, it is the disk's."""
        ground, private = self.ground, bio.members["bi_private"]
        end = self._ends.get(bio.members["bi_end_io"], "")
        # Of what a task waits for, the bio is on its stack, or at least what it waits by.
        on_stack = self._stacks.task(bio.address) or self._stacks.task(private)
        if on_stack:
            return Owner("direct I/O", task=on_stack, device=bio.disk)
        iocb = 0
        if end in _AROUND:
            around = _AROUND[end]
            iocb = ground.pointer(around, bio.address - ground.offset(around, "bio"), "iocb")
        elif end in _BLKDEV:
            iocb = ground.pointer(BLKDEV, private, "iocb")
        elif end == "iomap_dio_bio_end_io":
            iocb = ground.pointer(IOMAP, private, "iocb")
            if ground.uint(IOMAP, private, "wait_for_completion"):
                iocb = ground.pointer(IOMAP, private, "submit.waiter") or iocb
        elif end.startswith("dio_bio_end"):
            iocb = ground.pointer(DIO, private, "iocb")
        return self._of_iocb(iocb, bio.disk)

    def _of_iocb(self, iocb: int, disk: str) -> Owner:
        ground = self.ground
        if not iocb:
            return Owner("direct I/O", device=disk)
        # A block device's has the waiting task in the same place.
        task = iocb if iocb in ground.files.tasks.by_address else self._stacks.task(iocb)
        if task:
            return Owner("direct I/O", task=task, device=disk)
        complete = ground.pointer(IOCB, iocb, "ki_complete")
        if complete == self._aio:
            context = ground.pointer(AIO, iocb - ground.offset(AIO, "rw"), "ki_ctx")
            return Owner("direct I/O by io_submit(2)", mm=self._mm.get(context, 0), device=disk)
        if complete in self._uring:
            # The kiocb is at the beginning of a request, in place of its file.
            if ground.has(URING, "task"):
                task = ground.pointer(URING, iocb, "task")
            else:  # v6.13
                task = ground.pointer("struct io_uring_task", ground.pointer(URING, iocb, "tctx"), "task")
            return Owner("direct I/O by io_uring", task=task, device=disk)
        return Owner("direct I/O", file=ground.pointer(IOCB, iocb, "ki_filp"), device=disk)


WALKERS = (
    Walker(
        kind="direct-io",
        summary="a page that a disk reads into or writes from, past the page cache",
        frees="wait for the disk; if it does not answer, mend or remove it",
        walk=walk,
        types=("struct bio", "struct bio_vec", "struct request", "struct blk_mq_tags"),
        transient=True,
    ),
)
