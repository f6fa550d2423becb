# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Files that are in no descriptor table, because another file has them: what leads from them to a process.

A socket has those that are in flight to it (SCM_RIGHTS), and an io_uring those that were registered with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from .buffers import Skbs
from .ground import Ground
from .io_uring import CONTEXT
from .model import Damaged
from .socks import AF_UNIX, every_sock

NODE = "struct io_rsrc_node"
MAX_REGISTERED = 1 << 20  # IORING_MAX_FIXED_FILES is the limit of open files, at most 1 << 20
MAX_DEPTH = 8
IN_FLIGHT, REGISTERED = "in flight", "registered with io_uring"
_FLAGS = 7  # of a registered file, in the lowest bits of its address


@dataclass
class Kept:
    """
    Which files have which.

    :ivar by: Of the address of each ``struct file`` that is kept: how, and by which file
    """

    by: dict[int, list[tuple[str, int]]] = field(default_factory=dict)

    def keepers(self, file: int) -> list[tuple[str, int]]:
        """Return how a file is kept and what keeps it, and what keeps that, nearest first; each keeper once."""
        found: dict[int, str] = {}
        wanted = [file]
        for _ in range(MAX_DEPTH):
            above = [(how, keeper) for one in wanted for how, keeper in self.by.get(one, ()) if keeper not in found]
            found.update((keeper, how) for how, keeper in above)
            wanted = [keeper for _, keeper in above]
        return [(how, keeper) for keeper, how in found.items() if keeper != file]


def find_kept(ground: Ground) -> Kept:
    """
    Look through all UNIX sockets and io_urings. What cannot be followed is counted by ``ground.outcome``.

    :raises LookupError: if nothing describes them
    """
    kept = Kept()
    for how, found in ((REGISTERED, _registered(ground)), (IN_FLIGHT, _in_flight(ground))):
        for file, keeper in found:
            kept.by.setdefault(file, []).append((how, keeper))
    return kept


def _in_flight(ground: Ground) -> Iterator[tuple[int, int]]:
    """Yield each file that somebody could receive, and the socket's own file."""
    skbs = Skbs(ground)
    for sock in every_sock(ground):
        if sock.number != AF_UNIX or not sock.file:
            continue
        with ground.part(f"socket {sock.address:#x}"):
            for _, skb in skbs.queued(sock):
                for file in skbs.files(sock, skb):
                    yield file, sock.file


def _registered(ground: Ground) -> Iterator[tuple[int, int]]:
    """Yield each file that is registered with an io_uring, and that of the ring."""
    for ring_file, ring in ground.files.having([ground.symbol("io_uring_fops")]):
        with ground.part(f"io_uring {ring:#x}"):
            # 3597f2786b68 ("io_uring/rsrc: unify file and buffer resource tables") (in v6.13)
            by_node = ground.has(CONTEXT, "file_table.data.nodes")
            table, number = (
                ("file_table.data.nodes", "file_table.data.nr")
                if by_node
                else ("file_table.files", "nr_user_files")  # struct io_fixed_file, which is a pointer
            )
            count = ground.uint(CONTEXT, ring, number)
            if count > MAX_REGISTERED:
                raise Damaged(f"{count} registered files")
            for entry in ground.words(ground.pointer(CONTEXT, ring, table), count).tolist() if count else ():
                ground.step()
                file = ground.pointer(NODE, entry, "file_ptr") if by_node and entry else entry
                if file & ~_FLAGS:
                    yield file & ~_FLAGS, ring_file
