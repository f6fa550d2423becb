# SPDX-License-Identifier: LGPL-2.1-or-later
"""AF_XDP: memory of a process that packets are received into and sent from."""

from __future__ import annotations

from collections.abc import Iterator

from .ground import Ground
from .model import Claim, Owner, Walker
from .socks import AF_XDP, of_files

UMEM = "struct xdp_umem"
MAX_PAGES = 1 << 23  # 32 GiB


def walk(ground: Ground) -> Iterator[Claim]:
    """Yield the pages of each UMEM, which several sockets may share: each page is pinned once."""
    shared: dict[int, list[int]] = {}
    for sock in of_files(ground, AF_XDP):
        with ground.part(f"socket {sock.address:#x}"):
            umem = ground.pointer("struct xdp_sock", sock.address, "umem")
            if umem:
                shared.setdefault(umem, []).append(sock.file)
    for umem, files in shared.items():
        with ground.part(f"UMEM {umem:#x}"):
            count = ground.uint(UMEM, umem, "npgs")
            pages = ground.page_array(ground.pointer(UMEM, umem, "pgs"), count, MAX_PAGES)
            yield Claim(Owner.by_files("UMEM", files), pages, pins=1)


WALKERS = (
    Walker(
        kind="xdp",
        summary="a page of the memory (UMEM) of AF_XDP sockets",
        frees="close all AF_XDP sockets that share the memory",
        walk=walk,
        types=(UMEM, "struct xdp_sock"),
        symbols=("socket_file_ops",),
    ),
)
