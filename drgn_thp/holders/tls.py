# SPDX-License-Identifier: LGPL-2.1-or-later
"""
TLS in the kernel: pages of a record that is not complete, or is encrypted and not all sent.

Of a record that was encrypted into memory of the kernel's own, the pages that it was made of are kept until the last
byte is in the socket's queue. What a network device encrypts is in that queue itself.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy

from .ground import Ground
from .messages import Messages
from .model import Claim, Owner, Walker
from .socks import IPPROTO_TCP, Sock, every_sock

CONTEXT, SENDING, RECORD = "struct tls_context", "struct tls_sw_context_tx", "struct tls_rec"
CONNECTION = "struct inet_connection_sock"
MAX_RECORDS = 1 << 20
_SOFTWARE = 1  # TLS_SW


def walk(ground: Ground) -> Iterator[Claim]:
    """Yield the pages of the records of each socket."""
    messages = Messages(ground)
    operations = {ground.symbol("tcp_tls_ulp_ops", "tls")} - {None}
    plain_at = ground.offset(RECORD, "msg_plaintext")
    for sock in every_sock(ground):
        if sock.protocol != IPPROTO_TCP or sock.listening:
            continue
        with ground.part(f"TLS of socket {sock.address:#x}"):
            if ground.pointer(CONNECTION, sock.address, "icsk_ulp_ops") not in operations:
                continue
            pages = [messages.pages(record + plain_at) for record in _records(ground, sock)]
            held = numpy.concatenate([numpy.zeros(0, numpy.uint64), *pages])
            if len(held):
                device = "" if sock.file else "no file"
                yield Claim(Owner("record", file=sock.file, device=device), ground.pfns(held), gets=1)


def _records(ground: Ground, sock: Sock) -> Iterator[int]:
    """Yield what is to be sent."""
    context = ground.pointer(CONNECTION, sock.address, "icsk_ulp_data")
    if not context or int(ground.object(CONTEXT, context).tx_conf.value_()) != _SOFTWARE:
        return
    sending = ground.pointer(CONTEXT, context, "priv_ctx_tx")
    if not sending:
        return
    record = ground.pointer(SENDING, sending, "open_rec")
    if record:
        yield record
    yield from ground.entries(sending + ground.offset(SENDING, "tx_list"), ground.offset(RECORD, "list"), MAX_RECORDS)


WALKERS = (
    Walker(
        kind="tls",
        summary="a page of a TLS record of the kernel's that is not complete, or not all sent",
        frees="have the other end receive, or close the socket",
        walk=walk,
        types=(CONTEXT, SENDING, RECORD, "struct sk_msg"),
        symbols=("tcp_tls_ulp_ops",),
        module="tls",
    ),
)
