# SPDX-License-Identifier: LGPL-2.1-or-later
"""
How long it takes to find who holds and who maps all refused folios: ``python -m tests.vm.crowd VMCORE VMLINUX``.

Prints JSON. Seconds are of processor time; memory is what the search adds to the most that the scan needed.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy

from drgn_thp import formulas
from drgn_thp.holders.balance import sheets
from drgn_thp.holders.files import Files
from drgn_thp.holders.running import find_holders
from drgn_thp.mappers import find_mappers
from drgn_thp.suspects import Suspects

from .held import Machine


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(vmcore: Path, vmlinux: Path) -> dict[str, Any]:
    """Do what a report with holders and mappers of all refused folios does."""
    machine = Machine.open(vmcore, vmlinux)
    refused = [f.select(formulas.extra_references(f) > 0) for f in machine.tables]
    pfns, pages = (numpy.concatenate(parts) for parts in zip(*((f.pfn, formulas.nr_pages(f)) for f in refused)))
    before, start = peak_mib(), time.process_time()
    files = Files(machine.context)
    list(files.having([1]))  # of none, but every one is looked at, ...
    files.descriptors(1)  # ... and who has it
    found_files = time.process_time()
    suspects = Suspects(pfns, pages)
    findings = find_holders(machine.context, suspects)
    pids, left = Counter[str](), 0
    for f in refused:
        for sheet in sheets(machine.context, f, findings):
            pids.update(f"{record['kind']} {record['pid']}" for record in sheet.records())
            left += sheet.unexplained
    holders = time.process_time()
    mappers = find_mappers(machine.context, suspects)
    mappings = [len(records) + more for records, more in map(mappers.records, pfns.tolist())]
    return {
        "folios": len(pfns),
        "files": len(files),
        "problems": findings.problems + mappers.failures,
        "folios_by_owner": pids,
        "unexplained": left,
        "mappings": sum(mappings),
        "most_mappings": max(mappings),
        "files_seconds": found_files - start,
        "holders_seconds": holders - found_files,
        "mappers_seconds": time.process_time() - holders,
        "walkers": {outcome.kind: round(outcome.seconds, 3) for outcome in findings.outcomes},
        "memory_mib": peak_mib() - before,
    }


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]), Path(sys.argv[2]))))
