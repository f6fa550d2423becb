# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Direct I/O in flight: pages that a disk has been asked to read into or to write from.

Found by the requests that block devices have, and the bios of those. What waits above them (in a plug, a throttle, dm,
md) is not found.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from functools import cached_property
from itertools import islice

import numpy
from drgn.helpers.linux.block import for_each_disk

from ..folios import Column
from .aio import contexts
from .ground import Ground
from .model import Claim, Damaged, Owner, Walker

BIO, REQUEST, QUEUE, TAGS, SET = (
    "struct bio",
    "struct request",
    "struct request_queue",
    "struct blk_mq_tags",
    "struct blk_mq_tag_set",
)
BLKDEV_DIO, IOMAP_DIO, SIMPLE_DIO = "struct blkdev_dio", "struct iomap_dio", "struct iomap_dio_simple"
DIO, KIOCB = "struct dio", "struct kiocb"
MAX_DISKS = 1 << 16
MAX_QUEUES = 1 << 14
MAX_TAGS = 1 << 16
MAX_BIOS = 1 << 16
MAX_BVECS = 1 << 16
_GAP = 1 << 13  # bytes between requests that are read at once


class _Bios:
    """Finds the bios of all requests, and whose they are."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self.seen: set[int] = set()
        self.ends = {
            name: ground.symbol(name)
            for name in (
                "blkdev_bio_end_io_async",
                "blkdev_bio_end_io",
                "blkdev_bio_end_io_simple",
                "iomap_dio_bio_end_io",
                "iomap_dio_simple_end_io",
                "dio_bio_end_aio",
                "dio_bio_end_io",
                "bio_chain_endio",
            )
        }
        self.flags = {name: self._flag(name) for name in ("BIO_PAGE_PINNED", "BIO_PAGE_REFFED", "BIO_NO_PAGE_REF")}
        self.cloned = self._flag("BIO_CLONED") or 0

    def _flag(self, name: str) -> int | None:
        try:
            return 1 << int(self.ground.prog.constant(name).value_())
        except LookupError:
            return None

    @cached_property
    def _stacks(self) -> tuple[list[int], list[int]]:
        pairs = sorted((task.stack, task.address) for task in self.ground.files.tasks.by_address.values() if task.stack)
        return [stack for stack, _ in pairs], [address for _, address in pairs]

    @cached_property
    def _stack_size(self) -> int:
        return self.ground.size("union thread_union") if self.ground.has("union thread_union") else 1 << 14

    @cached_property
    def _aio(self) -> dict[int, int]:
        return {context: mm for mm, context in contexts(self.ground)}

    @cached_property
    def _rings(self) -> dict[int, int]:
        return {ring: file for file, ring in self.ground.files.having([self.ground.symbol("io_uring_fops")])}

    def task_of(self, address: int) -> int:
        """Return the task on whose stack an address is; 0 if on none."""
        stacks, tasks = self._stacks
        i = bisect_right(stacks, address) - 1
        return tasks[i] if i >= 0 and address < stacks[i] + self._stack_size else 0

    def claims(self, first: int, device: str) -> Iterator[Claim]:
        """Yield a claim for each bio of a request."""
        ground = self.ground
        following = ground.offset(BIO, "bi_next")
        for bio in ground.chain(first, lambda one: ground.word(one + following), MAX_BIOS):
            whole = self._parent(bio)
            if whole in self.seen:
                continue
            self.seen.add(whole)
            flags, end = ground.uint(BIO, whole, "bi_flags"), ground.pointer(BIO, whole, "bi_end_io")
            if flags & self.cloned:
                continue  # of what lies above: its pages are in a bio of its own
            owner = self._owner(whole, end, device)
            gets, pins, exact = self._weight(flags, end, owner.task)
            if not (gets or pins):
                continue
            count = ground.uint(BIO, whole, "bi_vcnt")
            if count > MAX_BVECS:
                raise Damaged(f"{count} bvecs")
            pages = self._pages(ground.pointer(BIO, whole, "bi_io_vec"), count)
            yield Claim(owner, pages, gets=gets, pins=pins, exact=exact)

    def _parent(self, bio: int) -> int:
        """Return the bio that has the pages of one that was split off it."""
        chain = self.ends["bio_chain_endio"]

        def above(one: int) -> int:
            if self.ground.pointer(BIO, one, "bi_end_io") != chain:
                return 0
            return self.ground.pointer(BIO, one, "bi_private")

        return list(self.ground.chain(bio, above, MAX_BIOS))[-1]

    def _weight(self, flags: int, end: int, task: int) -> tuple[int, int, bool]:
        """
        Return references and pins on each page, and whether that is certain.

        Since v6.5 bios say so themselves. Before, all do that do not deny it, and those of buffered I/O do not deny it:
        there it is told by the function that is called in the end, or by one that is on the stack.
        """
        pinned, kept, denied = (self.flags[name] for name in ("BIO_PAGE_PINNED", "BIO_PAGE_REFFED", "BIO_NO_PAGE_REF"))
        if pinned is not None:
            return int(bool(kept and flags & kept)), int(bool(flags & pinned)), True
        if denied is not None and flags & denied:
            return 0, 0, True
        if end in self.ends.values():
            return 1, 0, True
        return int(bool(task) and self._is_in(task, "__blkdev_direct_IO_simple")), 0, False

    def _is_in(self, task: int, function: str) -> bool:
        """Return whether a return address into a function is on the stack of a task."""
        stack = self.ground.files.tasks.by_address[task].stack
        words = self.ground.words(stack, self._stack_size // 8)
        return any(
            bool(((words > symbol.address) & (words < symbol.address + symbol.size)).any())
            for symbol in self.ground.prog.symbols(function)
        )

    def _pages(self, bvecs: int, count: int) -> Column:
        """Return the page frames of bvecs, each of which may have several pages that follow each other."""
        ground = self.ground
        words = ground.size("struct bio_vec") // 8
        array = ground.words(bvecs, count * words).reshape(count, words)
        shift = ground.context.kernel.page_shift
        length = (array[:, 1] & numpy.uint64(0xFFFFFFFF)).astype(numpy.int64)
        offset = (array[:, 1] >> numpy.uint64(32)).astype(numpy.int64)
        pages = (offset + length + (1 << shift) - 1 >> shift) - (offset >> shift)
        if (pages > 1 << 20).any():
            raise Damaged("a bvec of more than 4 GiB")
        parts = [
            numpy.arange(pfn, pfn + number) + (at >> shift)
            for page, number, at in zip(array[:, 0], pages.tolist(), offset.tolist())
            for pfn in ground.pfns([page]).tolist()
        ]
        return numpy.concatenate(parts) if parts else numpy.zeros(0, numpy.int64)

    def _owner(self, bio: int, end: int, device: str) -> Owner:
        ground, ends = self.ground, self.ends
        what = "direct I/O"
        private = ground.pointer(BIO, bio, "bi_private")
        iocb = 0
        if end == ends["blkdev_bio_end_io_async"]:
            iocb = ground.pointer(BLKDEV_DIO, bio - ground.offset(BLKDEV_DIO, "bio"), "iocb")
        elif end == ends["blkdev_bio_end_io"]:
            iocb = ground.pointer(BLKDEV_DIO, private, "iocb")
        elif end == ends["iomap_dio_bio_end_io"]:
            iocb = ground.pointer(IOMAP_DIO, private, "iocb")
        elif end == ends["iomap_dio_simple_end_io"]:  # for what is one bio, by v7.3
            iocb = ground.pointer(SIMPLE_DIO, bio - ground.offset(SIMPLE_DIO, "bio"), "iocb")
        elif end in (ends["dio_bio_end_aio"], ends["dio_bio_end_io"]):
            iocb = ground.pointer(DIO, private, "iocb")
        elif private in ground.files.tasks.by_address:
            return Owner(what, task=private, device=device)
        # A task that waits has it on its stack; instead of the iocb, there may be the task itself.
        if iocb in ground.files.tasks.by_address:
            return Owner(what, task=iocb, device=device)
        task = self.task_of(iocb) or self.task_of(bio) or self.task_of(private)
        if task or not iocb:
            return Owner(what, task=task, device=device)
        complete = ground.pointer(KIOCB, iocb, "ki_complete")
        if complete and complete == ground.symbol("aio_complete_rw"):
            context = ground.pointer("struct aio_kiocb", iocb - ground.offset("struct aio_kiocb", "rw"), "ki_ctx")
            return Owner(f"{what} by AIO", mm=self._aio.get(context, 0), device=device)
        if complete and complete in (ground.symbol("io_complete_rw"), ground.symbol("io_complete_rw_iopoll")):
            ring = ground.pointer("struct io_kiocb", iocb, "ctx")  # the kiocb is the beginning of it
            return Owner(f"{what} by io_uring", file=self._rings.get(ring, 0), device=device)
        return Owner(what, device=device)


def walk(ground: Ground) -> Iterator[Claim]:
    """Yield what the bios of each request hold."""
    bios = _Bios(ground)
    seen: set[int] = set()
    for disk in islice(for_each_disk(ground.prog), MAX_DISKS):
        address = int(disk.value_())
        with ground.part(f"disk {address:#x}"):
            name = disk.disk_name.string_().decode("utf-8", "backslashreplace")
            queue = ground.pointer("struct gendisk", address, "queue")
            for tags in _tags(ground, queue) if queue else ():
                if tags in seen:
                    continue
                seen.add(tags)
                for bio in _first_bios(ground, tags):
                    with ground.part(f"bio {bio:#x} of {name}"):
                        yield from bios.claims(bio, name)


def _tags(ground: Ground, queue: int) -> list[int]:
    """Return the tables of requests of a queue: of its driver, and of its scheduler."""
    found: list[int] = []
    tag_set = ground.pointer(QUEUE, queue, "tag_set")
    if tag_set:
        count = ground.uint(SET, tag_set, "nr_hw_queues")
        if count > MAX_QUEUES:
            raise Damaged(f"{count} hardware queues")
        found += ground.words(ground.pointer(SET, tag_set, "tags"), count).tolist()
        if ground.has(SET, "shared_tags"):
            found.append(ground.pointer(SET, tag_set, "shared_tags"))
    if ground.pointer(QUEUE, queue, "elevator"):
        # hctx_table was an xarray from 4e5cc99e1e48 ("blk-mq: manage hctx map via xarray") (in v5.18) on, for some time
        if ground.has(QUEUE, "hctx_table"):
            contexts = [entry for _, entry in ground.xarray(queue + ground.offset(QUEUE, "hctx_table"))]
        else:
            count = min(ground.uint(QUEUE, queue, "nr_hw_queues"), MAX_QUEUES)
            contexts = ground.words(ground.pointer(QUEUE, queue, "queue_hw_ctx"), count).tolist()
        found += [ground.pointer("struct blk_mq_hw_ctx", one, "sched_tags") for one in contexts if one]
    return [tags for tags in dict.fromkeys(found) if tags]


def _first_bios(ground: Ground, tags: int) -> list[int]:
    """Return the first bio of each request that is in use, read by the run of memory that they lie in."""
    count = ground.uint(TAGS, tags, "nr_tags")
    if count > MAX_TAGS:
        raise Damaged(f"{count} tags")
    requests = numpy.sort(ground.words(ground.pointer(TAGS, tags, "static_rqs"), count))
    requests = requests[requests != 0]
    size = ground.size(REQUEST)
    bio_at, used_at = ground.offset(REQUEST, "bio"), ground.offset(REQUEST, "ref")
    found: list[int] = []
    breaks = numpy.flatnonzero(numpy.diff(requests) > numpy.uint64(_GAP)) + 1
    for run in numpy.split(requests, breaks) if len(requests) else ():
        start = int(run[0])
        data = numpy.frombuffer(ground.read(start, int(run[-1]) - start + size), numpy.uint8)
        at = (run - numpy.uint64(start)).astype(numpy.int64)[:, None]
        used = data[at + used_at + numpy.arange(4)].copy().view(f"{ground.byteorder}u4")[:, 0]
        bios = data[at + bio_at + numpy.arange(8)].copy().view(f"{ground.byteorder}u8")[:, 0]
        found += [int(bio) for bio in bios[(used != 0) & (bios != 0)]]
    return found


WALKERS = (
    Walker(
        kind="direct-io",
        summary="a page that direct I/O in flight reads into or writes from",
        frees="wait until the disk has done it; look at the disk if that does not come",
        walk=walk,
        types=(BIO, REQUEST, TAGS, SET),
        symbols=("bio_chain_endio",),
        transient=True,
    ),
)
