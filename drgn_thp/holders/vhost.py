# SPDX-License-Identifier: LGPL-2.1-or-later
"""
vhost-vdpa: memory of a virtual machine that a device for virtio reaches by itself.

Devices that go by addresses of the process pin nothing: what they map are files. Nor does any other vhost for long.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy

from ..folios import Column
from .ground import Ground
from .model import Claim, Damaged, Owner, Walker

VDPA, DEVICE, SPACE = "struct vhost_vdpa", "struct vdpa_device", "struct vhost_vdpa_as"
TABLE, MAP, LINK = "struct vhost_iotlb", "struct vhost_iotlb_map", "struct hlist_node"
MAX_MAPS = 1 << 20
MAX_SPACES = 1 << 16
PIECE = 1 << 20
"""Pages that are claimed at a time."""
_BUCKETS = 16  # VHOST_VDPA_IOTLB_BUCKETS


def walk(ground: Ground) -> Iterator[Claim]:
    """Yield the pages of each mapping, which has their physical addresses: each page is pinned once."""
    for file, vdpa in ground.files.having([ground.symbol("vhost_vdpa_fops", "vhost_vdpa")]):
        with ground.part(f"vhost-vdpa {vdpa:#x}"):
            device = ground.pointer(VDPA, vdpa, "vdpa")
            if ground.has(DEVICE, "use_va") and ground.uint(DEVICE, device, "use_va"):
                continue
            for table in _tables(ground, vdpa):
                head = table + ground.offset(TABLE, "list")
                for entry in ground.entries(head, ground.offset(MAP, "link"), MAX_MAPS):
                    with ground.part(f"vhost-vdpa mapping {entry:#x}"):
                        for pages in _pages(ground, entry):
                            yield Claim(Owner("memory of a virtual machine", file=file), pages, pins=1)


def _pages(ground: Ground, entry: int) -> Iterator[Column]:
    """Yield the page frames of a mapping, in pieces."""
    shift = ground.context.kernel.page_shift
    address, size = (ground.pointer(MAP, entry, member) for member in ("addr", "size"))
    first, end = address >> shift, (address + size) >> shift
    if not first < end <= ground.context.end_pfn:
        raise Damaged(f"{size} bytes at {address:#x}")
    for start in range(first, end, PIECE):
        ground.step()
        yield numpy.arange(start, min(start + PIECE, end))


def _tables(ground: Ground, vdpa: int) -> Iterator[int]:
    """Yield the ``struct vhost_iotlb`` of each address space. In v5.10 there is one."""
    if not ground.has(VDPA, "as"):
        table = ground.pointer(VDPA, vdpa, "vdev.iotlb")
        if table:
            yield table
        return
    link, table_at = ground.offset(SPACE, "hash_link"), ground.offset(SPACE, "iotlb")
    for first in ground.words(vdpa + ground.offset(VDPA, "as"), _BUCKETS).tolist():
        for node in ground.chain(first, lambda node: ground.pointer(LINK, node, "next"), MAX_SPACES):
            yield node - link + table_at


WALKERS = (
    Walker(
        kind="vhost-vdpa",
        summary="a page of a virtual machine that a vDPA device may reach",
        frees="end the virtual machine",
        walk=walk,
        types=(VDPA, DEVICE, TABLE, MAP),
        symbols=("vhost_vdpa_fops",),
        module="vhost_vdpa",
    ),
)
