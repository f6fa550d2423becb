# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Sockets: pages that are on their way in a queue of one, put there by sendfile(2), splice(2) or MSG_ZEROCOPY.

A fragment of a ``struct sk_buff`` is one reference of its page. Clones share the ``struct skb_shared_info`` behind the
data, and with it the references: what the sender keeps until it is acknowledged may be what the receiver has in a
queue. So these are counted, and not the buffers that lead to them.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import numpy

from ..folios import Column
from .buffers import SharedInfo, Skbs
from .ground import Ground
from .messages import PSOCK, Messages
from .model import Claim, Owner, Walker
from .socks import Sock, every_sock


def walk(ground: Ground) -> Iterator[Claim]:
    """Yield the fragments of all that is in queues, for each set of sockets that have the same of it."""
    skbs, infos = Skbs(ground), SharedInfo(ground)
    messages = Messages(ground) if ground.has(PSOCK) else None
    places: dict[int, list[Owner]] = {}
    for sock in every_sock(ground):
        with ground.part(f"socket {sock.address:#x}"):
            psock = messages.psock(sock.address) if messages else 0
            if messages and psock:
                yield from _messages(ground, messages, sock, psock)
            of_map = messages.buffers(psock) if messages and psock else ()
            for what, skb in chain(skbs.queued(sock), of_map):
                owner = _owner(sock, what)
                for info in infos.reached(skb, skbs):
                    owners = places.setdefault(info, [])
                    if owner not in owners:
                        owners.append(owner)
    merged: dict[tuple[Owner, ...], list[Column]] = {}
    for info, owners in places.items():
        with ground.part(f"fragments {info:#x}"):
            pages = infos.pages(info)
            if len(pages):
                merged.setdefault(tuple(owners), []).append(pages)
    for together, parts in merged.items():
        first = together[0]
        files = tuple(dict.fromkeys(owner.file for owner in together if owner.file))
        what = ", ".join(dict.fromkeys(owner.what for owner in together))
        owner = Owner.by_files(what, files, first.device)
        yield Claim(owner, ground.pfns(numpy.concatenate(parts)), gets=1)


def _messages(ground: Ground, messages: Messages, sock: Sock, psock: int) -> Iterator[Claim]:
    for what, message in messages.of_psock(psock):
        pages = messages.pages(message)
        if len(pages):
            yield Claim(_owner(sock, what), ground.pfns(pages), gets=1)


def _owner(sock: Sock, what: str) -> Owner:
    # Without a file: of the kernel, or closed while there was something to send.
    return Owner(f"{what} of {sock.family}", file=sock.file, device="" if sock.file else "no file")


WALKERS = (
    Walker(
        kind="socket",
        summary="a page in a queue of a socket: sendfile(2), splice(2) or MSG_ZEROCOPY",
        frees="receive what is in the queue, or close the socket; what is not acknowledged goes with the connection",
        walk=walk,
        types=("struct sk_buff", "struct skb_shared_info", "struct sock", "struct socket"),
        symbols=("socket_file_ops",),
    ),
)
