# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every socket of a target: those of files, connections that nobody has accepted yet, and those without a file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy

from ..structs import Struct
from .ground import Ground
from .model import Damaged

AF_UNIX, AF_INET, AF_INET6, AF_PACKET, AF_XDP = 1, 2, 10, 17, 44
IPPROTO_TCP, IPPROTO_UDP = 6, 17
TCP_LISTEN = 10
FAMILIES = {AF_UNIX: "a UNIX socket", AF_PACKET: "a packet socket", AF_XDP: "an AF_XDP socket"}
MAX_BUCKETS = 1 << 24
MAX_BACKLOG = 1 << 20
SOCKET, SOCK, REQUEST = "struct socket", "struct sock", "struct request_sock"


@dataclass(frozen=True)
class Sock:
    """
    One ``struct sock``.

    :ivar file: By which it can be reached: its own, or the listener's of what is not accepted; 0 if there is none
    :ivar members: What was read of it
    """

    address: int
    file: int
    number: int
    protocol: int
    listening: bool
    members: dict[str, int]
    accepted: bool = True

    @property
    def family(self) -> str:
        """What it is, in words."""
        what = FAMILIES.get(self.number)
        if what is None:
            what = {IPPROTO_TCP: "a TCP", IPPROTO_UDP: "a UDP"}.get(self.protocol, "a") + " socket"
        return what if self.accepted else f"{what} that is not accepted"


class Reader:
    """Reads ``struct sock``."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self.struct = Struct(
            ground.prog,
            SOCK,
            (
                "__sk_common.skc_family",
                "__sk_common.skc_state",
                "sk_protocol",
                "sk_receive_queue.next",
                "sk_write_queue.next",
                "sk_error_queue.next",
                "sk_backlog.head",
                "tcp_rtx_queue.rb_node",
            ),
            ("sk_rx_skb_cache", "sk_tx_skb_cache"),  # v5.3 to v5.14
        )

    def sock(self, address: int, file: int, accepted: bool = True) -> Sock:
        """
        Read one.

        :raises FaultError: if it cannot be read
        """
        self.ground.step()
        m = self.struct.read(address)
        state, family = m["__sk_common.skc_state"], m["__sk_common.skc_family"]
        protocol = m["sk_protocol"] if family in (AF_INET, AF_INET6) else 0
        return Sock(address, file, family, protocol, state == TCP_LISTEN, m, accepted)


def of_files(ground: Ground, family: int | None = None) -> Iterator[Sock]:
    """Yield the sockets of all open files, or those of a family."""
    reader = Reader(ground)
    sk_at = ground.offset(SOCKET, "sk")
    for file, socket in ground.files.having([ground.symbol("socket_file_ops")]):
        with ground.part(f"socket {socket:#x}"):
            address = ground.word(socket + sk_at)
            if address:
                sock = reader.sock(address, file)
                if family in (None, sock.number):
                    yield sock


def every_sock(ground: Ground) -> Iterator[Sock]:
    """Yield those of files, then those that are not accepted, then TCP's that have no file; each once."""
    reader = Reader(ground)
    seen: set[int] = set()
    listening: list[Sock] = []
    for sock in of_files(ground):
        if sock.address not in seen:
            seen.add(sock.address)
            yield sock
            if sock.listening:
                listening.append(sock)
    for listener in listening:
        with ground.part(f"connections of {listener.address:#x}"):
            for address in _waiting(ground, listener):
                if address not in seen:
                    seen.add(address)
                    yield reader.sock(address, listener.file, accepted=False)
    with ground.part("TCP's table of connections"):
        for address in _connections(ground):
            if address not in seen:
                seen.add(address)
                with ground.part(f"socket {address:#x}"):
                    yield reader.sock(address, 0)


def _waiting(ground: Ground, listener: Sock) -> Iterator[int]:
    """Yield the connections of a listener that nobody has accepted."""
    if listener.number == AF_UNIX:
        # Each is the owner of a buffer in the listener's queue: unix_stream_connect().
        head = listener.address + ground.offset(SOCK, "sk_receive_queue")
        next_at, sk_at = ground.offset("struct sk_buff", "next"), ground.offset("struct sk_buff", "sk")
        for skb in ground.entries(head, limit=MAX_BACKLOG) if not next_at else ():
            address = ground.word(skb + sk_at)
            if address:
                yield address
    elif listener.protocol == IPPROTO_TCP:
        queue = listener.address + ground.offset("struct inet_connection_sock", "icsk_accept_queue")
        first = ground.pointer("struct request_sock_queue", queue, "rskq_accept_head")
        next_at = ground.offset(REQUEST, "dl_next")
        for request in ground.chain(first, lambda request: ground.word(request + next_at), MAX_BACKLOG):
            address = ground.pointer(REQUEST, request, "sk")
            if address:
                yield address


def _connections(ground: Ground) -> Iterator[int]:
    """Yield what TCP's hash table of connections has: full sockets only, of the first network namespace's table."""
    table = ground.symbol("tcp_hashinfo")
    if table is None:
        return
    info = "struct inet_hashinfo"
    mask, buckets = ground.uint(info, table, "ehash_mask"), ground.pointer(info, table, "ehash")
    if mask & (mask + 1) or mask >= MAX_BUCKETS:
        raise Damaged(f"{mask + 1} buckets")
    node_at, state_at = (ground.offset(SOCK, f"__sk_common.{name}") for name in ("skc_nulls_node", "skc_state"))
    width = ground.size("struct inet_ehash_bucket") // 8
    for start in range(0, mask + 1, 1 << 16):
        count = min(1 << 16, mask + 1 - start)
        heads = ground.words(buckets + start * width * 8, count * width).reshape(count, width)[:, 0]
        # The end of a list is an odd number.
        for head in heads[(heads & numpy.uint64(1)) == 0].tolist():
            for node in ground.chain(head, lambda node: (lambda n: 0 if n & 1 else n)(ground.word(node))):
                # TCP_TIME_WAIT and TCP_NEW_SYN_RECV are of smaller structures, which have no queues.
                if ground.read(node - node_at + state_at, 1)[0] not in (6, 12):
                    yield node - node_at
