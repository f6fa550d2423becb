# SPDX-License-Identifier: LGPL-2.1-or-later
"""AF_XDP: memory of a process that packets are received into and sent from (UMEM)."""

from __future__ import annotations

from collections.abc import Iterator

from .ground import Ground
from .model import Claim, Damaged, Owner, Walker

SOCKET, XDP, UMEM = "struct socket", "struct xdp_sock", "struct xdp_umem"
AF_XDP = 44
MAX_PAGES = 1 << 23


def walk(ground: Ground) -> Iterator[Claim]:
    """Yield the pages of each UMEM, which are pinned once, however many sockets share it."""
    shared: dict[int, list[int]] = {}
    for file, socket in ground.files.having([ground.symbol("socket_file_ops")]):
        with ground.part(f"socket {socket:#x}"):
            sock = ground.pointer(SOCKET, socket, "sk")
            if sock and ground.uint("struct sock", sock, "__sk_common.skc_family") == AF_XDP:
                umem = ground.pointer(XDP, sock, "umem")
                if umem:
                    shared.setdefault(umem, []).append(file)
    for umem, files in shared.items():
        with ground.part(f"UMEM {umem:#x}"):
            count = ground.uint(UMEM, umem, "npgs")
            if count > MAX_PAGES:
                raise Damaged(f"{count} pages")
            pages = ground.words(ground.pointer(UMEM, umem, "pgs"), count)
            yield Claim(Owner("UMEM", file=files[0], more_files=tuple(files[1:])), ground.pfns(pages), pins=1)


WALKERS = (
    Walker(
        kind="xdp",
        summary="a page of the memory that an AF_XDP socket has for its packets",
        frees="close all sockets that share the UMEM",
        walk=walk,
        types=(XDP, UMEM),
        symbols=("socket_file_ops",),
    ),
)
