# SPDX-License-Identifier: LGPL-2.1-or-later
"""The kernel's own map of physical memory (/proc/iomem): what is System RAM, and what of it virtio-mem has added."""

from __future__ import annotations

from dataclasses import dataclass

from drgn import FaultError, Object, Program

MAX_RESOURCES = 1 << 16
MAX_NAME = 64


@dataclass(frozen=True)
class Resources:
    """Ranges of page frames, in ascending order."""

    system_ram: tuple[tuple[int, int], ...]
    virtio_mem: tuple[tuple[int, int], ...]
    failure: str = ""
    virtio_mem_devices: tuple[tuple[int, int], ...] = ()
    """Regions of devices that have added memory, in bytes."""

    def covers(self, start_pfn: int, end_pfn: int) -> bool:
        """Return whether a range is System RAM throughout; a kernel that says nothing is believed to have no holes."""
        if not self.system_ram:
            return True
        position = start_pfn
        for start, end in self.system_ram:
            if start <= position < end:
                position = end
        return position >= end_pfn


def read_resources(prog: Program, page_shift: int) -> Resources:
    """Walk iomem_resource. What cannot be read is told in ``failure``."""
    ram, virtio_mem, failure = [], [], ""
    devices: set[tuple[int, int]] = set()
    try:
        pending: list[tuple[Object, tuple[int, int]]] = [(prog["iomem_resource"].child.read_(), (0, 0))]
        seen: set[int] = set()
        while pending:
            resource, parent = pending.pop()
            if not resource:
                continue
            if int(resource.value_()) in seen or len(seen) >= MAX_RESOURCES:
                failure = "the tree of resources leads back into itself"
                break
            seen.add(int(resource.value_()))
            # No further than is looked at: a damaged pointer leads to what may not end for long.
            text = prog.read_c_string(resource.name.value_(), max_size=MAX_NAME) if resource.name else b""
            # The kernel rounds both ends inwards: pages that only partly are RAM do not count.
            frames = (
                (int(resource.start) + (1 << page_shift) - 1) >> page_shift,
                (int(resource.end) + 1) >> page_shift,
            )
            if text.startswith(b"System RAM"):
                ram.append(frames)
                if b"virtio_mem" in text:
                    virtio_mem.append(frames)
                    devices.add(parent)
            own = (int(resource.start), int(resource.end) + 1)
            pending += [(resource.sibling.read_(), parent), (resource.child.read_(), own)]
    except (LookupError, FaultError) as error:
        failure = str(error)
    return Resources(tuple(sorted(ram)), tuple(sorted(virtio_mem)), failure, tuple(sorted(devices - {(0, 0)})))
