# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Requests to a server of FUSE that are not answered: pages that are to be read, sent, or read into by direct I/O.

A request that reads a single page for a task has no reference of its own; that task has. Nor has writeback. Not found
are requests in the rings of io_uring that newer servers may use.
"""

from __future__ import annotations

from collections.abc import Iterator

from .ground import Ground
from .model import Claim, Damaged, Owner, Walker

DEVICE, REQUEST, ARGUMENTS = "struct fuse_dev", "struct fuse_req", "struct fuse_args"
PAGES, CONNECTION, CHANNEL = "struct fuse_args_pages", "struct fuse_conn", "struct fuse_chan"
OPERATIONS = "fuse_dev_operations"
MODULE = "fuse"
MAX_REQUESTS = 1 << 20
MAX_PAGES = 1 << 16
_HASH = 256  # FUSE_PQ_HASH_SIZE
_WRITE = 16  # FUSE_WRITE, part of the protocol
_LOW = 7  # bits of a device's private_data that are no address


class _Requests:
    """Reads what connections and their devices have in their queues."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        # Queues moved from struct fuse_conn to struct fuse_chan in newer kernels (seen in 7.3, not in 6.12).
        self.channel, self.member = (CHANNEL, "chan") if ground.has(DEVICE, "chan") else (CONNECTION, "fc")
        self._list = ground.offset(REQUEST, "list")
        # What ends requests that have references of their own.
        self._ends = {ground.symbol(name, MODULE) for name in ("fuse_readpages_end", "fuse_retrieve_end")} - {None}
        self.symbols_known = bool(self._ends)

    def queued(self, channel: int) -> Iterator[int]:
        """Yield requests that no device has taken yet."""
        for queue in ("iq.pending", "bg_queue"):
            yield from self._entries(channel + self.ground.offset(self.channel, queue))

    def taken(self, device: int) -> Iterator[int]:
        """Yield requests that a device has taken, and not yet answered."""
        ground = self.ground
        yield from self._entries(device + ground.offset(DEVICE, "pq.io"))
        table = ground.pointer(DEVICE, device, "pq.processing")
        if table:
            heads = ground.words(table, 2 * _HASH).reshape(_HASH, 2)[:, 0].tolist()
            for i, first in enumerate(heads):
                if first != table + 16 * i:
                    yield from self._entries(table + 16 * i)

    def _entries(self, head: int) -> Iterator[int]:
        if self.ground.word(head):  # not initialized: a device that is not mounted
            yield from self.ground.entries(head, self._list, MAX_REQUESTS)

    def claim(self, request: int, owner: Owner) -> Claim | None:
        """
        Return the pages of a request, if it has references on them.

        :raises FaultError: if it cannot be read
        :raises Damaged: if it has too many of them
        """
        ground = self.ground
        address = ground.pointer(REQUEST, request, "args")
        if not address:
            return None
        arguments = ground.object(ARGUMENTS, address)
        end, user = int(arguments.end.value_()), bool(arguments.user_pages.value_())
        pins = 0
        if user:
            # Pinned where the kernel says so, else held as they were.
            if ground.has(ARGUMENTS, "is_pinned"):
                if not arguments.is_pinned.value_():
                    return None
                pins = 1
        elif end:
            if end not in self._ends:
                return None
        elif int(arguments.opcode.value_()) != _WRITE or not arguments.in_pages.value_():
            return None
        # struct page until v6.12, which has both in a union.
        names = ("pages", "num_pages") if ground.has(PAGES, "pages") else ("folios", "num_folios")
        pages = address - ground.offset(PAGES, "args")
        count = ground.uint(PAGES, pages, names[1])
        if count > MAX_PAGES:
            raise Damaged(f"{count} pages")
        held = ground.pfns(ground.words(ground.pointer(PAGES, pages, names[0]), count))
        return Claim(owner, held, gets=1 - pins, pins=pins)


def walk(ground: Ground) -> Iterator[Claim]:
    """Yield the pages of each request of each connection that anybody serves."""
    requests = _Requests(ground)
    if not requests.symbols_known:
        raise LookupError("the functions that end requests are not known")
    files: dict[int, list[int]] = {}
    for file, private in ground.files.having([ground.symbol(OPERATIONS, MODULE)]):
        if private & ~_LOW:
            files.setdefault(private & ~_LOW, []).append(file)
    channels: dict[int, list[int]] = {}
    for device in files:
        with ground.part(f"device {device:#x}"):
            channel = ground.pointer(DEVICE, device, requests.member)
            if channel & ~_LOW:
                channels.setdefault(channel, []).append(device)
    for channel, devices in channels.items():
        together = [file for device in devices for file in files[device]]
        yield from _claims(requests, requests.queued(channel), "request that is not taken", together)
        for device in devices:
            yield from _claims(requests, requests.taken(device), "request", files[device])


def _claims(requests: _Requests, found: Iterator[int], what: str, files: list[int]) -> Iterator[Claim]:
    ground = requests.ground
    owner = Owner(what, file=files[0], more_files=tuple(files[1:]))
    with ground.part(f"requests of {files[0]:#x}"):
        for request in found:
            with ground.part(f"request {request:#x}"):
                claim = requests.claim(request, owner)
                if claim is not None:
                    yield claim


WALKERS = (
    Walker(
        kind="fuse",
        summary="a page of a request that a server of FUSE has not answered",
        frees="have the server answer, or end it, or abort the connection (/sys/fs/fuse/connections/N/abort)",
        walk=walk,
        types=(DEVICE, REQUEST, ARGUMENTS, PAGES),
        symbols=(OPERATIONS,),
        module=MODULE,
        transient=True,
    ),
)
