# SPDX-License-Identifier: LGPL-2.1-or-later
"""``struct sk_buff``: the queues that they are in, and the pages that their fragments are."""

from __future__ import annotations

from collections.abc import Iterator

import numpy

from ..folios import Column
from ..structs import Struct
from .ground import Ground
from .model import Damaged
from .socks import AF_UNIX, IPPROTO_TCP, IPPROTO_UDP, SOCK, Sock

SKB, INFO = "struct sk_buff", "struct skb_shared_info"
MAX_FILES = 253  # SCM_MAX_FD
MAX_HEAD = 1 << 26
# SKBFL_MANAGED_FRAG_REFS, 753f1ca4e1e5 ("net: introduce managed frags infrastructure") (in v6.0): the references are
# those of a buffer registered with io_uring. No kernel before that has this bit.
_MANAGED = 1 << 4
_NET_IOV = 1
"""A fragment that is no page: NET_IOV, since v6.9."""


class Skbs:
    """Finds the buffers of a socket."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self.struct = Struct(ground.prog, SKB, ("head", "end", "next", "cb"))
        self._rb_at = ground.offset(SKB, "rbnode")
        self._next_at = self.struct.offset("next")
        self._queues = {name: ground.offset(SOCK, f"{name}.next") for name in _QUEUES}

    def queued(self, sock: Sock) -> Iterator[tuple[str, int]]:
        """
        Yield each buffer that a socket has in a queue, and what that is.

        :raises Damaged: if a queue does not end
        """
        ground, following = self.ground, lambda skb: ground.word(skb + self._next_at)
        for name, what in _QUEUES.items():
            head = sock.address + self._queues[name]
            if sock.members[f"{name}.next"] != head:
                yield from ((what, skb) for skb in self._list(head))
        yield from (("backlog", skb) for skb in ground.chain(sock.members["sk_backlog.head"], following))
        for name in ("sk_rx_skb_cache", "sk_tx_skb_cache"):
            if sock.members[name]:
                yield "cache", sock.members[name]
        if sock.protocol == IPPROTO_TCP:
            if sock.members["tcp_rtx_queue.rb_node"]:
                root = sock.address + ground.offset(SOCK, "tcp_rtx_queue")
                yield from (("retransmit queue", skb) for skb in ground.tree(root, self._rb_at))
            if not sock.listening:
                root = sock.address + ground.offset("struct tcp_sock", "out_of_order_queue")
                yield from (("out-of-order queue", skb) for skb in ground.tree(root, self._rb_at))
        elif sock.protocol == IPPROTO_UDP:
            head = sock.address + ground.offset("struct udp_sock", "reader_queue")
            yield from (("receive queue", skb) for skb in self._list(head))

    def _list(self, head: int) -> Iterator[int]:
        ground = self.ground

        def following(skb: int) -> int:
            behind = ground.word(skb + self._next_at)
            return 0 if behind == head else behind

        # 0 is what an uninitialized queue has, of a kind of socket that does not use it.
        first = following(head)
        return ground.chain(first, following)

    def files(self, sock: Sock, skb: int) -> Iterator[int]:
        """
        Yield the files that are in flight in a buffer of a UNIX socket.

        :raises Damaged: if there are more than may be sent
        """
        if sock.number != AF_UNIX or sock.listening:
            return
        ground = self.ground
        control = skb + self.struct.offset("cb")
        passed = ground.pointer("struct unix_skb_parms", control, "fp")
        if not passed:
            return
        count = ground.uint("struct scm_fp_list", passed, "count")
        if count > MAX_FILES:
            raise Damaged(f"{count} files in one message")
        yield from ground.words(passed + ground.offset("struct scm_fp_list", "fp"), count).tolist()


_QUEUES = {
    "sk_receive_queue": "receive queue",
    "sk_write_queue": "write queue",
    "sk_error_queue": "error queue",
}


class SharedInfo:
    """Reads ``struct skb_shared_info``."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self.struct = Struct(ground.prog, INFO, ("nr_frags", "frag_list"), ("flags",))
        self._frags_at = ground.offset(INFO, "frags")
        frags = ground.type(INFO).member("frags").type
        self._most, self._width = int(frags.length or 0), int(frags.type.unaliased().size or 0) // 8
        # {page or netmem, two lengths}: 16 bytes in all kernels so far, as struct bio_vec or struct skb_frag.
        names = [m.name for m in frags.type.unaliased().members or ()]
        if not names or names[0] not in ("bv_page", "netmem"):
            raise LookupError(f"the fragments of {INFO} begin with {names[:1]}")

    def of(self, skb: int, skbs: Skbs) -> int:
        """
        Return the address of what a buffer shares with its clones.

        :raises FaultError: if it cannot be read
        """
        members = skbs.struct.read(skb)
        end = members["end"]
        if skbs.struct.width("end") == 4:  # NET_SKBUFF_DATA_USES_OFFSET
            if end > MAX_HEAD:
                raise Damaged(f"a buffer of {end} bytes")
            end += members["head"]
        return end

    def reached(self, skb: int, skbs: Skbs) -> Iterator[int]:
        """
        Yield the address of what a buffer shares, and those of the buffers in its list of fragments, at any depth.

        :raises Damaged: if that does not end
        """
        seen = {skb}
        pending = [skb]
        while pending:
            info = self.of(pending.pop(), skbs)
            yield info
            first = self.struct.read(info)["frag_list"]
            if first:
                for one in self.ground.chain(first, lambda skb: self.ground.word(skb + skbs.struct.offset("next"))):
                    if one in seen:
                        raise Damaged("a list of fragments does not end")
                    seen.add(one)
                    pending.append(one)

    def pages(self, info: int) -> Column:
        """
        Return the addresses of the ``struct page`` that have a reference.

        :raises FaultError: if they cannot be read
        """
        members = self.struct.read(info)
        count = members["nr_frags"]
        if count > self._most:
            raise Damaged(f"{count} fragments")
        if not count or members["flags"] & _MANAGED:
            return numpy.zeros(0, numpy.uint64)
        first = self.ground.words(info + self._frags_at, count * self._width).reshape(count, self._width)[:, 0]
        kept: Column = first[(first & numpy.uint64(_NET_IOV)) == 0]
        return kept
