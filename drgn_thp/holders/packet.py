# SPDX-License-Identifier: LGPL-2.1-or-later
"""AF_PACKET: rings that a process shares with the kernel, in pages of the kernel's own."""

from __future__ import annotations

from collections.abc import Iterator

import numpy
from drgn import FaultError

from .ground import Ground
from .model import Claim, Damaged, Owner, Walker

SOCKET, PACKET, RING, BLOCK = "struct socket", "struct packet_sock", "struct packet_ring_buffer", "struct pgv"
AF_PACKET = 17
MAX_BLOCKS = 1 << 20
MAX_PAGES = 1 << 16


def walk(ground: Ground) -> Iterator[Claim]:
    """Yield the blocks of each ring: of each, one reference on its first page is the socket's."""
    for file, socket in ground.files.having([ground.symbol("socket_file_ops")]):
        with ground.part(f"socket {socket:#x}"):
            sock = ground.pointer(SOCKET, socket, "sk")
            if not sock or ground.uint("struct sock", sock, "__sk_common.skc_family") != AF_PACKET:
                continue
            for member, what in (("rx_ring", "ring for receiving"), ("tx_ring", "ring for sending")):
                ring = sock + ground.offset(PACKET, member)
                blocks, pages = ground.uint(RING, ring, "pg_vec_len"), ground.uint(RING, ring, "pg_vec_pages")
                vector = ground.pointer(RING, ring, "pg_vec")
                if not vector:
                    continue
                if blocks > MAX_BLOCKS or pages > MAX_PAGES:
                    raise Damaged(f"{blocks} blocks of {pages} pages")
                for address in ground.words(vector, blocks * ground.size(BLOCK) // 8).tolist():
                    yield _block(ground, Owner(what, file=file), address, pages)


def _block(ground: Ground, owner: Owner, address: int, pages: int) -> Claim:
    if not address:
        return Claim(owner, ())
    first = ground.context.virtual_to_pfn(address)
    if not 0 <= first < ground.context.end_pfn:
        raise FaultError("no memory there", address)
    gets = numpy.zeros(pages, numpy.int64)
    gets[:1] = 1
    return Claim(owner, numpy.arange(first, first + pages), gets=gets)


WALKERS = (
    Walker(
        kind="packet-ring",
        summary="a page of a ring that a socket of AF_PACKET shares with a process",
        frees="close the socket, and unmap the ring",
        walk=walk,
        types=(PACKET, RING, BLOCK),
        symbols=("socket_file_ops",),
        module="af_packet",
    ),
)
