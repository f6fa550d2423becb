# SPDX-License-Identifier: LGPL-2.1-or-later
"""RDS: pages of a process that are sent without a copy, over TCP, until the other side has acknowledged them."""

from __future__ import annotations

from collections.abc import Iterator

from .ground import Ground
from .model import Claim, Damaged, Owner, Walker
from .scatter import Scatter
from .socks import of_files

SOCK, MESSAGE = "struct rds_sock", "struct rds_message"
AF_RDS = 21
MAX_MESSAGES = 1 << 20
MAX_ENTRIES = 1 << 16


def walk(ground: Ground) -> Iterator[Claim]:
    """Yield the pages of messages in the send queue of each socket, but for those that were copied."""
    scatter = Scatter(ground)
    for sock in of_files(ground, AF_RDS):
        with ground.part(f"socket {sock.address:#x}"):
            queue = sock.address + ground.offset(SOCK, "rs_send_queue")
            for message in ground.entries(queue, ground.offset(MESSAGE, "m_sock_item"), MAX_MESSAGES):
                with ground.part(f"RDS message {message:#x}"):
                    if ground.pointer(MESSAGE, message, "data.op_mmp_znotifier"):
                        count = ground.uint(MESSAGE, message, "data.op_nents")
                        if count > MAX_ENTRIES:
                            raise Damaged(f"{count} pieces")
                        pages = scatter.pages(ground.pointer(MESSAGE, message, "data.op_sg"), count)
                        yield Claim(Owner("send queue", file=sock.file), ground.pfns(pages), gets=1)


WALKERS = (
    Walker(
        kind="rds",
        summary="a page that is sent over an RDS socket without a copy",
        frees="wait until it was sent and acknowledged, or close the socket",
        walk=walk,
        types=(SOCK, MESSAGE),
        symbols=("rds_proto_ops",),
        module="rds",
        transient=True,
    ),
)
