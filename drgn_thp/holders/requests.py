# SPDX-License-Identifier: LGPL-2.1-or-later
"""Block requests that are under way, and the ``struct bio`` that the pages were put into."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from drgn.helpers.linux.block import disk_name, for_each_disk

from ..endless import ends
from ..structs import Struct
from .ground import Ground
from .model import Damaged

QUEUE, HCTX, TAGS, BIO = "struct request_queue", "struct blk_mq_hw_ctx", "struct blk_mq_tags", "struct bio"
MAX_DISKS = 1 << 20
MAX_HCTX = 1 << 14
MAX_TAGS = 1 << 20
MAX_BIOS = 1 << 16
MAX_DEPTH = 32
MAX_VECTORS = 1 << 16


@dataclass(frozen=True)
class Bio:
    """
    One that is under way.

    :ivar disk: Where to
    """

    address: int
    disk: str
    members: dict[str, int]


class Requests:
    """Finds the bios of all disks."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self.bio = Struct(
            ground.prog,
            BIO,
            ("bi_next", "bi_flags", "bi_io_vec", "bi_vcnt", "bi_end_io", "bi_private"),
        )
        self._request = Struct(ground.prog, "struct request", ("bio", "ref"))
        self._chained = ground.symbol("bio_chain_endio")
        self._mapped = ground.symbol("clone_endio", "dm_mod")

    def bios(self) -> Iterator[Bio]:
        """Yield every bio that is in a request, or of which one in a request is a part or clone; each once."""
        ground = self.ground
        seen: set[int] = set()
        tags: set[int] = set()
        if not ends(ground.prog, "class_kset"):
            raise Damaged("the list of classes does not end")
        for disk in islice(for_each_disk(ground.prog), MAX_DISKS):
            with ground.part("disk"):
                name = disk_name(disk).decode("utf-8", "backslashreplace")
                for address in self._tags(int(disk.queue.value_())):
                    # Disks may share their tags, and then the first of them would have all requests.
                    if address in tags:
                        continue
                    tags.add(address)
                    for request in self._requests(address):
                        with ground.part(f"request {request:#x}"):
                            yield from self._of_request(request, name, seen)

    def _tags(self, queue: int) -> Iterator[int]:
        """Yield the sets of tags of a queue: with a scheduler, requests have its, else those of the driver."""
        ground = self.ground
        if not queue:
            return
        if ground.has(QUEUE, "queue_hw_ctx"):  # an array in v5.10 and v7.3, an xarray between
            count = ground.uint(QUEUE, queue, "nr_hw_queues")
            if count > MAX_HCTX:
                raise Damaged(f"{count} hardware queues")
            array = ground.pointer(QUEUE, queue, "queue_hw_ctx")
            contexts = ground.words(array, count).tolist() if array else []
        else:
            table = queue + ground.offset(QUEUE, "hctx_table")
            contexts = [entry for _, entry in ground.xarray(table, MAX_HCTX)]
        for context in contexts:
            if context:
                yield ground.pointer(HCTX, context, "sched_tags") or ground.pointer(HCTX, context, "tags")

    def _requests(self, tags: int) -> Iterator[int]:
        """Yield the requests of a set of tags that are in use."""
        ground = self.ground
        if not tags:
            return
        count = ground.uint(TAGS, tags, "nr_tags")
        if count > MAX_TAGS:
            raise Damaged(f"{count} tags")
        for request in ground.words(ground.pointer(TAGS, tags, "static_rqs"), count).tolist():
            with ground.part(f"request {request:#x}"):
                # A free one has no reference; what else it says is what it was when it was in use.
                if request and self._request.read(request)["ref"]:
                    yield request

    def _of_request(self, request: int, disk: str, seen: set[int]) -> Iterator[Bio]:
        ground = self.ground
        first = self._request.read(request)["bio"]
        for address in ground.chain(first, lambda bio: self.bio.read(bio)["bi_next"], MAX_BIOS):
            bio = self.bio.read(address)
            for _ in range(MAX_DEPTH):
                above = self._above(address, bio)
                if not above:
                    break
                address, bio = above, self.bio.read(above)
            else:
                raise Damaged("a bio is a part of itself")
            if address not in seen:
                seen.add(address)
                yield Bio(address, disk, bio)

    def _above(self, address: int, bio: dict[str, int]) -> int:
        """Return what a bio was split off or cloned from; 0 if it is neither."""
        if bio["bi_end_io"] == self._chained:
            return bio["bi_private"]
        if self._mapped and bio["bi_end_io"] == self._mapped and self.ground.has("struct dm_target_io"):
            target = address - self.ground.offset("struct dm_target_io", "clone")
            return self.ground.pointer(
                "struct dm_io", self.ground.pointer("struct dm_target_io", target, "io"), "orig_bio"
            )
        return 0
