# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a kernel prints of page frames that it fails to move: only of some, as it limits its messages."""

from __future__ import annotations

import re
from typing import NamedTuple

from tests.vm.rewind import Agent

# What goes to the console: all that is less than this.
CONSOLE, EVERYTHING = "/proc/sys/kernel/printk", 8
DYNAMIC_DEBUG = "/proc/dynamic_debug/control"


class Shown(NamedTuple):
    """What dump_page() prints of a page, in part."""

    refcount: int
    lru: bool


def have_it_tell(guest: Agent) -> None:
    """Have the kernel print the page frames that it fails to move, as far as it knows how to."""
    guest.ask(f"write 1 {CONSOLE} {EVERYTHING}")
    # Since a1394bddf9b6 (v5.13). Without that it is no error either.
    guest.ask(f"write 1 {DYNAMIC_DEBUG} func alloc_contig_dump_pages +p")


def stages_told(log: str) -> dict[int, str]:
    """Return where offlining failed ("isolation", "migration"), by page frame."""
    result = {int(pfn, 16): "isolation" for pfn in re.findall(r"failed to isolate pfn ([0-9a-f]+)", log)}
    result.update({int(pfn, 16): "migration" for pfn in re.findall(r"migrating pfn ([0-9a-f]+) failed", log)})
    return result


def dumped(log: str, why: str) -> dict[int, Shown]:
    """Return what dump_page() has shown for this reason, by page frame."""
    result: dict[int, Shown] = {}
    pfn, refcount, flags = -1, 0, ""
    for line in log.splitlines():
        if found := re.search(r"refcount:(-?\d+) .*pfn:0x([0-9a-f]+)", line):
            refcount, pfn, flags = int(found[1]), int(found[2], 16), ""
        elif found := re.search(r"flags: 0x[0-9a-f]+\(([^)]*)\)", line):
            flags = found[1]
        elif line.endswith(f"page dumped because: {why}"):
            result[pfn] = Shown(refcount, "lru" in flags.split("|"))
    return result
