# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Sockets: pages that are in their queues without a copy, by splice(2), sendfile(2) or MSG_ZEROCOPY.

What is sent to oneself, and not yet acknowledged, is in two queues with one reference: clones of a buffer share it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from functools import cached_property

import numpy

from ..folios import Column
from .ground import Ground
from .model import Claim, Damaged, Owner, Walker

SOCKET, SOCK, SKB, SHARED = "struct socket", "struct sock", "struct sk_buff", "struct skb_shared_info"
REQUESTS = "struct inet_connection_sock"
REQUEST = "struct request_sock"
AF_UNIX, AF_INET, AF_INET6 = 1, 2, 10
SOCK_STREAM = 1
TCP, UDP, UDPLITE = 6, 17, 136  # IPPROTO_
TCP_LISTEN = 10  # of UNIX sockets, too
_MANAGED = 1 << 4  # SKBFL_MANAGED_FRAG_REFS: io_uring's, which has them pinned itself
MAX_FRAGS = 64
MAX_BUFFERS = 1 << 20

_LISTS = (
    ("sk_receive_queue", "receive queue"),
    ("sk_write_queue", "write queue"),
    ("sk_error_queue", "error queue"),
)


class _Queues:
    """Finds the buffers of sockets, with what is needed for each in one read."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self._skb = struct.Struct(f"{ground.byteorder}Q")
        self.shared_size = ground.size(SHARED)
        self.frags_at = ground.offset(SHARED, "frags")
        frag = ground.type(SHARED).member("frags").type.unaliased()
        self.frag_words = int(frag.type.unaliased().size or 0) // 8
        self.max_frags = int(frag.length or 0)
        self.managed = ground.has(SHARED, "flags")

    @cached_property
    def _tail_is_offset(self) -> bool:
        size = self.ground.type(SKB).member("end").type.unaliased().size
        return bool(size == 4)

    def of(self, sock: int, what: str = "") -> Iterator[tuple[int, str]]:
        """Yield each buffer in the queues of a socket, and of those that wait to be accepted; and where it is."""
        ground = self.ground
        family = ground.uint(SOCK, sock, "__sk_common.skc_family")
        protocol = ground.uint(SOCK, sock, "sk_protocol")
        listens = ground.uint(SOCK, sock, "__sk_common.skc_state") == TCP_LISTEN
        stream = ground.uint(SOCK, sock, "sk_type") == SOCK_STREAM
        tcp = family in (AF_INET, AF_INET6) and stream and protocol == TCP
        if tcp and listens:
            if not what:
                yield from self._unaccepted(sock)
            return
        for member, name in _LISTS:
            yield from self._list(sock + ground.offset(SOCK, member), what or name)
        yield from self._chain(ground.pointer(SOCK, sock, "sk_backlog.head"), what or "backlog")
        if family == AF_UNIX and listens and not what:
            # What waits to be accepted is in the queue as an empty buffer of the new socket.
            for skb, _ in list(self._list(sock + ground.offset(SOCK, "sk_receive_queue"), "")):
                yield from self.of(ground.pointer(SKB, skb, "sk"), "not accepted")
        if tcp:
            for type_, member, name in (
                (SOCK, "tcp_rtx_queue", "retransmit queue"),
                ("struct tcp_sock", "out_of_order_queue", "out-of-order queue"),
            ):
                for skb in ground.tree(sock + ground.offset(type_, member), ground.offset(SKB, "rbnode")):
                    yield skb, what or name
        elif family in (AF_INET, AF_INET6) and protocol in (UDP, UDPLITE) and not stream:
            yield from self._list(sock + ground.offset("struct udp_sock", "reader_queue"), what or "receive queue")

    def _list(self, head: int, what: str) -> Iterator[tuple[int, str]]:
        following: Callable[[int], int] = self.ground.word  # next is the first member of both
        for skb in self._until(following(head), head):
            yield skb, what

    def _until(self, skb: int, head: int) -> Iterator[int]:
        def following(node: int) -> int:
            behind = self.ground.word(node)
            return 0 if behind == head else behind

        return self.ground.chain(0 if skb == head else skb, following, MAX_BUFFERS)

    def _chain(self, skb: int, what: str) -> Iterator[tuple[int, str]]:
        for one in self.ground.chain(skb, self.ground.word, MAX_BUFFERS):
            yield one, what

    def _unaccepted(self, sock: int) -> Iterator[tuple[int, str]]:
        ground = self.ground
        following = ground.offset(REQUEST, "dl_next")
        first = ground.pointer(REQUESTS, sock, "icsk_accept_queue.rskq_accept_head")
        for request in ground.chain(first, lambda one: ground.word(one + following)):
            child = ground.pointer(REQUEST, request, "sk")
            if child:
                yield from self.of(child, "not accepted")

    def shared(self, skb: int) -> Iterator[tuple[int, Column]]:
        """Yield address, and pages, of what a buffer and those on its list share with their clones."""
        ground = self.ground
        pending, seen = [skb], set[int]()
        while pending:
            one = pending.pop()
            if one in seen or len(seen) > MAX_BUFFERS:
                raise Damaged(f"a list of buffers does not end ({len(seen)} entries)")
            seen.add(one)
            head, end = ground.pointer(SKB, one, "head"), ground.uint(SKB, one, "end")
            info = head + end if self._tail_is_offset else end
            data = ground.read(info, self.shared_size)
            count = data[ground.offset(SHARED, "nr_frags")]
            if count > min(self.max_frags, MAX_FRAGS):
                raise Damaged(f"{count} fragments")
            words = numpy.frombuffer(data, f"{ground.byteorder}u8", offset=self.frags_at).astype(numpy.uint64)
            pages = words[: count * self.frag_words : self.frag_words]
            managed = self.managed and data[ground.offset(SHARED, "flags")] & _MANAGED
            # The lowest bit: memory of a device (struct net_iov), and no page.
            yield info, pages[(pages & numpy.uint64(1)) == 0] if not managed else pages[:0]
            following = int(self._skb.unpack_from(data, ground.offset(SHARED, "frag_list"))[0])
            pending += list(ground.chain(following, ground.word, MAX_BUFFERS))


def walk(ground: Ground) -> Iterator[Claim]:
    """Yield what is in the queues of each socket, by the way it is there; what several have is all of theirs."""
    queues = _Queues(ground)
    found: dict[int, tuple[Column, list[tuple[int, str]]]] = {}
    for file, socket in ground.files.having([ground.symbol("socket_file_ops")]):
        with ground.part(f"socket {socket:#x}"):
            sock = ground.pointer(SOCKET, socket, "sk")
            if not sock:
                continue
            for skb, what in queues.of(sock):
                ground.step()
                for info, pages in queues.shared(skb):
                    if len(pages):
                        found.setdefault(info, (pages, []))[1].append((file, what))
    by_owner: dict[Owner, list[Column]] = {}
    for pages, places in found.values():
        files = tuple(dict.fromkeys(file for file, _ in places))
        owner = Owner(places[0][1], file=files[0], more_files=files[1:])
        by_owner.setdefault(owner, []).append(pages)
    for owner, parts in by_owner.items():
        yield Claim(owner, ground.pfns(numpy.concatenate(parts)), gets=1)


WALKERS = (
    Walker(
        kind="socket",
        summary="a page in a queue of a socket: splice(2), sendfile(2), MSG_ZEROCOPY",
        frees="have the other end read what was sent, or close the sockets",
        walk=walk,
        types=(SOCKET, SOCK, SKB, SHARED),
        symbols=("socket_file_ops",),
    ),
)
