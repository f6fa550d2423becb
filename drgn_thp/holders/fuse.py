# SPDX-License-Identifier: LGPL-2.1-or-later
"""
FUSE and virtiofs: pages of a process that the server of a filesystem is to read or write directly.

The request waits for the server, for as long as that takes.
"""

from __future__ import annotations

from collections.abc import Iterator

from .ground import Ground
from .model import Claim, Damaged, Owner, Walker

CONNECTION, CHANNEL, DEVICE = "struct fuse_conn", "struct fuse_chan", "struct fuse_dev"
REQUEST, ARGS, PAGES = "struct fuse_req", "struct fuse_args", "struct fuse_args_pages"
IO, PRIVATE = "struct fuse_io_args", "struct fuse_io_priv"
MAX_CONNECTIONS = 1 << 16
MAX_PAGES = 1 << 16
_BUCKETS = 1 << 8  # FUSE_PQ_HASH_SIZE
_WRITE = 16  # FUSE_WRITE


def walk(ground: Ground) -> Iterator[Claim]:
    """Yield the pages of each request for direct I/O, wherever it is on its way to the server and back."""
    head = ground.symbol("fuse_conn_list", "fuse")
    assert head is not None
    for connection in ground.entries(head, ground.offset(CONNECTION, "entry"), MAX_CONNECTIONS):
        with ground.part(f"FUSE connection {connection:#x}"):
            for request in _requests(ground, connection):
                with ground.part(f"FUSE request {request:#x}"):
                    yield from _pages(ground, ground.pointer(REQUEST, request, "args"))


def _requests(ground: Ground, connection: int) -> Iterator[int]:
    # What has to do with requests is a structure of its own in v7.3.
    type_, base = CONNECTION, connection
    if ground.has(CONNECTION, "chan"):
        type_, base = CHANNEL, ground.pointer(CONNECTION, connection, "chan")
    link = ground.offset(REQUEST, "list")
    for member in ("iq.pending", "bg_queue"):
        yield from ground.entries(base + ground.offset(type_, member), link)
    for device in ground.entries(base + ground.offset(type_, "devices"), ground.offset(DEVICE, "entry")):
        yield from ground.entries(device + ground.offset(DEVICE, "pq.io"), link)
        table = ground.pointer(DEVICE, device, "pq.processing")
        for i, first in enumerate(ground.words(table, 2 * _BUCKETS)[::2].tolist()):
            if first != table + 16 * i:
                yield from ground.entries(table + 16 * i, link)


def _pages(ground: Ground, args: int) -> Iterator[Claim]:
    fields = ground.object(ARGS, args)
    if not fields.user_pages.value_():
        return
    own = args - ground.offset(PAGES, "args")
    by_folio = ground.has(PAGES, "folios") and not ground.has(PAGES, "pages")  # v6.12 has both, and uses pages for this
    array, number = ("folios", "num_folios") if by_folio else ("pages", "num_pages")
    count = ground.uint(PAGES, own, number)
    if count > MAX_PAGES:
        raise Damaged(f"{count} pages")
    pages = ground.pfns(ground.words(ground.pointer(PAGES, own, array), count))
    # Newer kernels pin memory of a process, and take no reference on what comes from elsewhere.
    gets, pins = (0, int(fields.is_pinned.value_())) if ground.has(ARGS, "is_pinned") else (1, 0)
    what = "write to a FUSE file" if fields.opcode.value_() == _WRITE else "read of a FUSE file"
    control = ground.pointer(PRIVATE, ground.pointer(IO, own - ground.offset(IO, "ap"), "io"), "iocb")
    yield Claim(Owner(what, file=ground.pointer("struct kiocb", control, "ki_filp")), pages, gets=gets, pins=pins)


WALKERS = (
    Walker(
        kind="fuse",
        summary="a page that the server of a FUSE or virtiofs filesystem is to read or write (direct I/O)",
        frees="wait for the server to answer, or abort the connection (/sys/fs/fuse/connections/*/abort)",
        walk=walk,
        types=(CONNECTION, DEVICE, REQUEST, ARGS, PAGES, IO, PRIVATE),
        symbols=("fuse_conn_list",),
        module="fuse",
        transient=True,
    ),
)
