# SPDX-License-Identifier: LGPL-2.1-or-later
"""``struct sk_msg``: what TLS and maps of sockets put pages into, and the queues that a map of sockets has of each."""

from __future__ import annotations

from collections.abc import Iterator

import numpy

from ..folios import Column
from .ground import Ground
from .model import Damaged
from .socks import SOCK

MESSAGE, PSOCK = "struct sk_msg", "struct sk_psock"
MAX_MESSAGES = 1 << 20
_FLAGS = 7  # of sk_user_data, in its lowest bits: include/net/sock.h
_IS_PSOCK = 4  # SK_USER_DATA_PSOCK: in v6.1 and newer, and in v5.10.223
_PAGE_FLAGS = 3  # of a scatterlist's page_link


class Messages:
    """Reads messages, and finds those that a map of sockets has."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        sg = ground.type(MESSAGE).member("sg").type
        self._slots = int(sg.member("data").type.length or 0) - 1  # NR_MSG_FRAG_IDS; the last one is for chains
        self._width = ground.size("struct scatterlist") // 8
        self._length = ground.offset("struct scatterlist", "length")
        self._data = ground.offset(MESSAGE, "sg.data")

    def pages(self, message: int) -> Column:
        """
        Return the addresses of the ``struct page`` that a message has a reference on, which is a ring.

        :raises FaultError: if it cannot be read
        :raises Damaged: if it contradicts itself
        """
        ground = self.ground
        if ground.pointer(MESSAGE, message, "skb"):  # then the pages are the buffer's
            return numpy.zeros(0, numpy.uint64)
        start, end = (ground.uint(MESSAGE, message, f"sg.{name}") for name in ("start", "end"))
        if max(start, end) >= self._slots:
            raise Damaged(f"a message from {start} to {end}")
        words = ground.words(message + self._data, self._slots * self._width).reshape(self._slots, self._width)
        used = (start + numpy.arange((end - start) % self._slots)) % self._slots
        lengths = words[used].view(numpy.uint32)[:, self._length // 4]
        pages: Column = words[used, 0][lengths != 0] & ~numpy.uint64(_PAGE_FLAGS)
        return pages

    def psock(self, sock: int) -> int:
        """Return what a map of sockets has of a socket; 0 if it is in none."""
        ground = self.ground
        user = ground.pointer(SOCK, sock, "sk_user_data")
        psock = user & ~_FLAGS
        if not user & _IS_PSOCK or not psock or ground.pointer(PSOCK, psock, "sk") != sock:
            return 0
        return psock

    def of_psock(self, psock: int) -> Iterator[tuple[str, int]]:
        """Yield each message that is not yet sent, or has come and is not yet received, and which of these it is."""
        ground = self.ground
        cork = ground.pointer(PSOCK, psock, "cork")
        if cork:
            yield "corked sockmap message", cork
        head = psock + ground.offset(PSOCK, "ingress_msg")
        for message in ground.entries(head, ground.offset(MESSAGE, "list"), MAX_MESSAGES):
            yield "sockmap message", message

    def buffers(self, psock: int) -> Iterator[tuple[str, int]]:
        """Yield each ``struct sk_buff`` that has come."""
        ground = self.ground
        for _, message in self.of_psock(psock):
            skb = ground.pointer(MESSAGE, message, "skb")
            if skb:
                yield "sockmap queue", skb
        head = psock + ground.offset(PSOCK, "ingress_skb")
        next_at = ground.offset("struct sk_buff", "next")

        def following(skb: int) -> int:
            behind = ground.word(skb + next_at)
            return 0 if behind == head else behind

        for skb in ground.chain(following(head), following, MAX_MESSAGES):
            yield "sockmap queue", skb
