# SPDX-License-Identifier: LGPL-2.1-or-later
"""virtio-mem is told to give back everything, and what it keeps is held against what was said before."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from .dumps import Dump, ensure_dump, start
from .guest import Guest
from .matrix import KERNELS, Kernel
from .rewind import Rewound

pytestmark = pytest.mark.vm

Record = dict[str, Any]
DEVICE = "/machine/peripheral/vmem"
SETTLED_SECONDS = 12.0
"""It tries again after 50 seconds: what has not happened so long before will not."""
LIMIT_SECONDS = 120.0


def report(vmcore: Path, dump: Dump) -> list[Record]:
    """Return the records of virtio-mem's memory on the path that it takes."""
    memory = dump.hotplug_pfns
    command = [sys.executable, "-m", "drgn_thp", "report", "-c", str(vmcore), "-s", str(dump.vmlinux), "--main-symbols"]
    command += [
        "--path",
        "contig",
        "--format",
        "ndjson",
        "--block",
        f"{memory.start << 12:#x}-{(memory.stop << 12) - 1:#x}",
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode in (0, 1), result.stderr + result.stdout[-1000:]
    return [json.loads(line) for line in result.stdout.splitlines()]


def plugged(guest: Guest) -> int:
    """Return how much the device has plugged, as the emulator says."""
    (device,) = guest.qmp("query-memory-devices")
    size = device["data"]["size"]
    assert isinstance(size, int)
    return size


def unplug(guest: Guest, vmcore: Path) -> int:
    """Ask a guest for all memory, dump it, and return the bytes that stay plugged."""
    guest.qmp("qom-set", path=DEVICE, property="requested-size", value=0)
    size, since = plugged(guest), time.monotonic()
    deadline = since + LIMIT_SECONDS
    while time.monotonic() - since < SETTLED_SECONDS and time.monotonic() < deadline:
        time.sleep(0.2)
        now = plugged(guest)
        if now != size:
            size, since = now, time.monotonic()
    guest.dump(vmcore)
    return size


def kept(records: list[Record], shown: str) -> set[int]:
    """Return the addresses of the sub-blocks that the maps of the blocks show so."""
    result = set()
    for record in records:
        own = record.get("virtio_mem") if record["kind"] == "block" else None
        if own is not None:
            for number, fate in enumerate(own["map"]):
                if fate in shown:
                    result.add(record["start"] + number * own["sub_block_size"])
    return result


def check(before: list[Record], after: list[Record], stayed: int) -> None:
    """Compare what was said with what stayed plugged: by the emulator, and by sub-blocks."""
    (device,) = [record for record in before if record["kind"] == "virtio_mem"]
    said = kept(before, "xtwo")
    assert said, "nothing would stay: the test shows nothing"
    found = kept(after, "-xtwo")
    unit = device["unit"]
    assert len(found) * unit == stayed
    assert said <= found
    gone = device["plugged_size"] - stayed
    assert device["unpluggable_at_least"] <= gone <= device["unpluggable"]
    if device["gives_up_at"] is None:
        assert found == said
        assert device["unpluggable_at_least"] == device["unpluggable"]


@pytest.mark.parametrize("entry", KERNELS, ids=lambda entry: entry.name)
def test_what_stays_plugged_is_what_was_said(entry: Kernel, tmp_path: Path) -> None:
    """Sub-block by sub-block, with every scenario alive; hugetlb folios end it early since v5.13."""
    dump = ensure_dump(entry)
    before = report(dump.vmcore, dump)
    (device,) = [record for record in before if record["kind"] == "virtio_mem"]
    assert device["plugged_size"] == len(dump.hotplug_pfns) << 12
    assert (device["gives_up_at"] is None) == (entry.name == "5.10")
    with start(dump, dump.state) as guest:
        guest.resume()
        stayed = unplug(guest, tmp_path / "after")
    check(before, report(tmp_path / "after", dump), stayed)


@pytest.mark.parametrize("entry", KERNELS, ids=lambda entry: entry.name)
def test_without_huge_pages_it_is_said_to_the_sub_block(entry: Kernel, tmp_path: Path) -> None:
    """With nothing that needs room on the node, no doubt is left."""
    dump = ensure_dump(entry)
    others = {mark.scenario for mark in dump.marks if not mark.scenario.startswith("hugetlb")}
    with Rewound(dump) as rewound:
        rewound.ask(f"alone {' '.join(sorted(others))}")
        for node in (0, 1):
            rewound.ask(f"write 10 /sys/devices/system/node/node{node}/hugepages/hugepages-2048kB/nr_hugepages 0")
        rewound.guest.dump(tmp_path / "before")
        rewound.guest.qmp("cont")
        stayed = unplug(rewound.guest, tmp_path / "after")
    before = report(tmp_path / "before", dump)
    (device,) = [record for record in before if record["kind"] == "virtio_mem"]
    assert device["gives_up_at"] is None
    check(before, report(tmp_path / "after", dump), stayed)
