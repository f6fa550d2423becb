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
class _Clone:
    """
    A bio that somebody made of another one, told by the function that ends it.

    :ivar around: The structure that leads to the other one
    :ivar inside: The member of it that the bio is; if there is none, bi_private points to it
    :ivar path: Members that lead from it to the other bio, each with the structure that it is a member of
    """

    end: str
    module: str
    around: str
    inside: str
    path: tuple[tuple[str, str], ...]


_CLONES = (
    _Clone(
        "clone_endio",
        "dm_mod",
        "struct dm_target_io",
        "clone",
        (("struct dm_target_io", "io"), ("struct dm_io", "orig_bio")),
    ),
    # Which of the two a kernel has changed between v6.1 and v6.12.
    *(
        _Clone(end, "md_mod", structure, "bio_clone", ((structure, "orig_bio"),))
        for end, structure in (("md_end_clone_io", "struct md_io_clone"), ("md_end_io_acct", "struct md_io_acct"))
    ),
    *(
        _Clone(f"{level}_end_{way}_request", level, structure, "", ((structure, "master_bio"),))
        for level, structure in (("raid1", "struct r1bio"), ("raid10", "struct r10bio"))
        for way in ("read", "write")
    ),
)


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
        ends = {ground.symbol(clone.end, clone.module): clone for clone in _CLONES}
        self._clones = {end: clone for end, clone in ends.items() if end}

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
        """
        Return what a bio was split off or cloned from; 0 if it is neither.

        :raises FaultError: if that cannot be read
        :raises Damaged: if nothing describes what leads there
        """
        if bio["bi_end_io"] == self._chained:
            return bio["bi_private"]
        clone = self._clones.get(bio["bi_end_io"])
        if clone is None:
            return 0
        if not self.ground.has(clone.around):
            raise Damaged(f"nothing describes {clone.around} of module {clone.module}")
        at = address - self.ground.offset(clone.around, clone.inside) if clone.inside else bio["bi_private"]
        for structure, member in clone.path:
            at = self.ground.pointer(structure, at, member)
        return at
