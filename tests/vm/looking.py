# SPDX-License-Identifier: LGPL-2.1-or-later
"""
One report of a live kernel, its refused folios looked at again, and what there is to judge of it.

The same function looks from outside (churn.py) and from inside: this file is put onto the disk of a guest that looks at
itself. So it knows nothing of the lab, and what it finds can be said in one line of a console.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from drgn_thp.confirm import Looks
from drgn_thp.context import Context
from drgn_thp.gates import Reason, find_path
from drgn_thp.report import Question, Report
from drgn_thp.target import TargetSpec, open_target

PATHS = ("offline", "contig", "compaction-sync")
LOOKS = Looks(5, 0.5)
VMLINUX = "/vmlinux"
"""In a guest: where types come from if the kernel's own are not enough."""
WORD = "ROUND"
HELD = {"extra-reference", "dma-pinned"}
"""Reasons that say that a folio is held."""
FIELDS = (
    "pfn",
    "order",
    "path",
    "reason",
    "also",
    "extra",
    "confirmed_extra",
    "refcount",
    "expected",
    "flags",
    "mapping",
)


@dataclass
class Round:
    """
    One report. Times are of the clock of whoever looked.

    :ivar scanned: When the scan was done, and looking again began
    :ivar looked: When that was done
    :ivar labels: Of folios that had a surplus at the scan, and paths: by label, those that are held apart
    :ivar passing: Folios that were refused, but not because somebody holds them all the time
    :ivar held: Folios and paths that are said to be held all the time
    :ivar counted: What changed while the report was made
    """

    began: float = 0.0
    scanned: float = 0.0
    looked: float = 0.0
    labels: dict[str, int] = field(default_factory=dict)
    passing: int = 0
    held: list[dict[str, Any]] = field(default_factory=list)
    counted: dict[str, int] = field(default_factory=dict)

    def line(self) -> str:
        """Return all of it in one line."""
        return json.dumps(asdict(self), separators=(",", ":"))


def look(prog: Any, looks: Looks = LOOKS) -> Round:
    """Report on a live kernel."""
    result = Round(time.monotonic())
    report = Report(
        Context.fresh(prog),
        Question([find_path(path) for path in PATHS], None, Reason.is_listed, looks),
    )

    def progress(pages: int) -> None:
        result.scanned = time.monotonic()

    report.progress = progress
    labels, passing = Counter[str](), set()
    for record in report.records():
        result.looked = result.looked or time.monotonic()
        if record["kind"] != "folio" or surplus(record) <= 0:
            continue
        label = str(record["confirmed"])
        # Much is refused for good without being held: what ramfs has, THPs by compaction, memory that goes offline.
        if label == "persistent" and (record["confirmed_extra"] or record["reason"] in HELD):
            result.held.append({name: record[name] for name in FIELDS})
            label = "held"
        else:
            passing.add(record["pfn"])
        labels[label] += 1
    totals = report.totals
    result.labels, result.passing = dict(labels), len(passing)
    result.counted = {
        "changing": totals.changing,
        "changed_blocks": totals.changed_blocks,
        "new_blocks": totals.new_blocks,
        "unreadable": totals.unreadable_pages,
        "offline": totals.offline_blocks,
        "unconfirmed": totals.unconfirmed,
    }
    return result


def surplus(record: dict[str, Any]) -> int:
    """Return how many references of a folio nothing explains, but for that of who takes it off the LRU."""
    extra: int = record["extra"] or 0
    return extra - ("isolated" in (record["reason"], *record["also"]))


def apart() -> None:
    """Raise RuntimeError if this process has memory on the node that the others use: it would be in its own way."""
    maps = Path("/proc/self/numa_maps").read_text()
    bad = [line for line in maps.splitlines() if " N1=" in line]
    if bad:
        raise RuntimeError(f"memory on node 1: {bad[:3]}")


def look_for_ever() -> None:
    """Look at the kernel that this runs on, and print each round."""
    print(f"INSIDE: imported at {time.monotonic():.1f} s", flush=True)
    spec = TargetSpec(kernel=True, default_symbols="none")
    if os.path.exists(VMLINUX):
        spec = TargetSpec(kernel=True, symbols=(VMLINUX,), default_symbols="main")
    prog = open_target(spec).prog
    print(f"INSIDE: types at {time.monotonic():.1f} s", flush=True)
    while True:
        apart()
        line = f"{WORD} {look(prog).line()}\n".encode()
        while line:
            line = line[os.write(1, line) :]
