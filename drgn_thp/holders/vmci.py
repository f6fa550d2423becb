# SPDX-License-Identifier: LGPL-2.1-or-later
"""VMCI: memory of a virtual machine of VMware's that the host's kernel has for notifications and queue pairs."""

from __future__ import annotations

from collections.abc import Iterator

from .ground import Ground
from .model import Claim, Owner, Walker

DEVICE, CONTEXT, LIST = "struct vmci_host_dev", "struct vmci_ctx", "struct qp_list"
PAIR, QUEUE, PAGES = "struct qp_broker_entry", "struct vmci_queue", "struct vmci_queue_kern_if"
MAX_PAIRS = 1 << 16
MAX_PAGES = 1 << 20
_WITH_MEMORY = (2, 4, 6)  # VMCIQPB_CREATED_MEM, VMCIQPB_ATTACHED_MEM, VMCIQPB_SHUTDOWN_MEM


def walk(ground: Ground) -> Iterator[Claim]:
    """Yield the page of notifications of each context, and the pages of queue pairs."""
    files: dict[int, list[int]] = {}
    for file, device in ground.files.having([ground.symbol("vmuser_fops", "vmw_vmci")]):
        with ground.part(f"VMCI device {device:#x}"):
            context = ground.pointer(DEVICE, device, "context")
            if context:
                files.setdefault(ground.uint(CONTEXT, context, "cid"), []).append(file)
                page = ground.pointer(CONTEXT, context, "notify_page")
                yield Claim(Owner("notifications", file=file), ground.pfns([page]), gets=1)
    pairs = ground.symbol("qp_broker_list", "vmw_vmci")
    assert pairs is not None
    for pair in ground.entries(pairs + ground.offset(LIST, "head"), ground.offset(PAIR, "qp.list_item"), MAX_PAIRS):
        with ground.part(f"VMCI queue pair {pair:#x}"):
            if ground.uint(PAIR, pair, "state") in _WITH_MEMORY:
                # The memory is a virtual machine's, whether it was the first one or came to a pair of the host's.
                ends = (ground.uint(PAIR, pair, member) for member in ("create_id", "attach_id"))
                having = [file for end in ends for file in files.get(end, ())]
                owner = Owner.by_files("queue pair", having)
                for member in ("produce_q", "consume_q"):
                    yield _queue(ground, ground.pointer(PAIR, pair, member), owner)


def _queue(ground: Ground, queue: int, owner: Owner) -> Claim:
    pages = ground.pointer(QUEUE, queue, "kernel_if")
    count = ground.pointer(PAGES, pages, "num_pages")
    # What has no memory of a process has an array of NULL.
    return Claim(owner, ground.page_array(ground.pointer(PAGES, pages, "u.h.header_page"), count, MAX_PAGES), gets=1)


WALKERS = (
    Walker(
        kind="vmci",
        summary="a page that a virtual machine of VMware's shares with the host (VMCI)",
        frees="end the virtual machine",
        walk=walk,
        types=(DEVICE, CONTEXT, LIST, PAIR, QUEUE, PAGES),
        symbols=("qp_broker_list",),
        module="vmw_vmci",
    ),
)
