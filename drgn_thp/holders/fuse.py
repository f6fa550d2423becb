# SPDX-License-Identifier: LGPL-2.1-or-later
"""
FUSE and virtiofs: pages of requests that the server of a filesystem has not answered.

Pages of a process that are to be read or written directly belong to who asked; those of the page cache (read ahead,
written through, asked for by the server) are the server's business alone. A request that reads a single page for a
task has no reference of its own; that task has. Nor has writeback. Not found are requests in the rings of io_uring that
newer servers may use.
"""

from __future__ import annotations

from collections.abc import Iterator

from .ground import Ground
from .model import Claim, Owner, Walker

CONNECTION, CHANNEL, DEVICE = "struct fuse_conn", "struct fuse_chan", "struct fuse_dev"
REQUEST, ARGUMENTS, PAGES = "struct fuse_req", "struct fuse_args", "struct fuse_args_pages"
IO, PRIVATE = "struct fuse_io_args", "struct fuse_io_priv"
MODULE = "fuse"
# What ends requests that have references of their own.
ENDS = ("fuse_readpages_end", "fuse_retrieve_end")
MAX_CONNECTIONS = 1 << 16
MAX_REQUESTS = 1 << 20
MAX_PAGES = 1 << 16
_BUCKETS = 1 << 8  # FUSE_PQ_HASH_SIZE
_WRITE = 16  # FUSE_WRITE, part of the protocol
_LOW = 7  # bits of the private_data of a server's file that are no address


def walk(ground: Ground) -> Iterator[Claim]:
    """Yield the pages of each request, wherever it is on its way to the server and back."""
    head = ground.symbol("fuse_conn_list", MODULE)
    assert head is not None
    requests = _Requests(ground)
    for connection in ground.entries(head, ground.offset(CONNECTION, "entry"), MAX_CONNECTIONS):
        with ground.part(f"FUSE connection {connection:#x}"):
            for request, servers in requests.of(connection):
                with ground.part(f"FUSE request {request:#x}"):
                    yield from requests.claims(request, servers)


class _Requests:
    """Reads what connections and their devices have in their queues."""

    def __init__(self, ground: Ground) -> None:
        """
        :raises LookupError: if it cannot be told which requests have references
        """
        self.ground = ground
        self._link = ground.offset(REQUEST, "list")
        self._ends = {ground.symbol(name, MODULE) for name in ENDS} - {None}
        if not self._ends:
            raise LookupError("the functions that end requests are not known")
        self._servers: dict[int, list[int]] = {}
        for file, private in ground.files.having([ground.symbol("fuse_dev_operations", MODULE)]):
            self._servers.setdefault(private & ~_LOW, []).append(file)

    def of(self, connection: int) -> Iterator[tuple[int, list[int]]]:
        """Yield each request of a connection, and the files of those who may answer it."""
        ground = self.ground
        # What has to do with requests is a structure of its own in v7.3, but not in v6.12.
        type_, base = CONNECTION, connection
        if ground.has(CONNECTION, "chan"):
            type_, base = CHANNEL, ground.pointer(CONNECTION, connection, "chan")
        devices = list(ground.entries(base + ground.offset(type_, "devices"), ground.offset(DEVICE, "entry")))
        everybody = [file for device in devices for file in self._servers.get(device, ())]
        for member in ("iq.pending", "bg_queue"):
            for request in self._entries(base + ground.offset(type_, member)):
                yield request, everybody
        for device in devices:
            for request in self._taken(device):
                yield request, self._servers.get(device, [])

    def _taken(self, device: int) -> Iterator[int]:
        """Yield requests that a device has taken, and not yet answered."""
        ground = self.ground
        yield from self._entries(device + ground.offset(DEVICE, "pq.io"))
        table = ground.pointer(DEVICE, device, "pq.processing")
        for i, first in enumerate(ground.words(table, 2 * _BUCKETS)[::2].tolist()):
            if first != table + 16 * i:
                yield from self._entries(table + 16 * i)

    def _entries(self, head: int) -> Iterator[int]:
        return self.ground.entries(head, self._link, MAX_REQUESTS)

    def claims(self, request: int, servers: list[int]) -> Iterator[Claim]:
        """
        Yield what a request has, if it has references.

        :raises Damaged: if that is too much
        """
        ground = self.ground
        address = ground.pointer(REQUEST, request, "args")
        if not address:
            return
        arguments = ground.object(ARGUMENTS, address)
        end, written = int(arguments.end.value_()), int(arguments.opcode.value_()) == _WRITE
        own = address - ground.offset(PAGES, "args")
        gets, pins = 1, 0
        owner = Owner.by_files("request of a FUSE filesystem", servers)
        if arguments.user_pages.value_():
            # Newer kernels pin memory of a process, and take no reference on what comes from elsewhere.
            if ground.has(ARGUMENTS, "is_pinned"):
                gets, pins = 0, int(arguments.is_pinned.value_())
            asked = self._asking_file(own)
            if asked:
                owner = Owner("write to a FUSE file" if written else "read of a FUSE file", file=asked)
        elif end not in self._ends if end else not written or not arguments.in_pages.value_():
            return
        # v6.12 has both in a union, and uses pages for this.
        by_folio = ground.has(PAGES, "folios") and not ground.has(PAGES, "pages")
        array, number = ("folios", "num_folios") if by_folio else ("pages", "num_pages")
        count = ground.uint(PAGES, own, number)
        pages = ground.page_array(ground.pointer(PAGES, own, array), count, MAX_PAGES)
        yield Claim(owner, pages, gets=gets, pins=pins)

    def _asking_file(self, pages: int) -> int:
        """Return the file that is read or written directly; 0 if the request does not tell."""
        ground = self.ground
        private = ground.pointer(IO, pages - ground.offset(IO, "ap"), "io")
        control = ground.pointer(PRIVATE, private, "iocb") if private else 0
        return ground.pointer("struct kiocb", control, "ki_filp") if control else 0


WALKERS = (
    Walker(
        kind="fuse",
        summary="a page of a request that the server of a FUSE or virtiofs filesystem has not answered",
        frees="have the server answer, or end it, or abort the connection (/sys/fs/fuse/connections/*/abort)",
        walk=walk,
        types=(CONNECTION, DEVICE, REQUEST, ARGUMENTS, PAGES, IO, PRIVATE),
        symbols=("fuse_conn_list",),
        module=MODULE,
    ),
)
