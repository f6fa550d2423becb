# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A guest that forks, faults huge pages, swaps, and offlines and onlines memory blocks, looked at from outside meanwhile.

    python -m tests.vm.churn [KERNEL...] [--minutes M]

Twenty of its pages are held from beginning to end; any other is held for less than a second at a time. So every report
has to call the twenty persistent, and nothing else.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from drgn_thp.confirm import Looks
from drgn_thp.context import Context
from drgn_thp.gates import find_path
from drgn_thp.report import Question, Report
from drgn_thp.target import TargetSpec, open_target
from tests.vm import initramfs, kernels, workload
from tests.vm.dumps import EMULATOR_FAULT
from tests.vm.guest import Guest, GuestError
from tests.vm.matrix import KERNELS, kernel
from tests.vm.scenes import Scene

PLANTED = 20
PATHS = ("offline", "contig", "compaction-sync")
# A disk that takes its time, in nanoseconds.
DISKS = (
    "-blockdev",
    f"driver=null-co,node-name=slow,size={1 << 30},latency-ns={300 * 10**6}",
    "-device",
    "virtio-blk-pci,drive=slow",
)
SCENE = Scene("churn", modules=("virtio_blk",), devices=DISKS)
LOOKS = Looks(5, 0.5)
HELD = {"extra-reference", "dma-pinned"}
"""Reasons that say that a folio is held."""
PATIENCE = 20.0
"""Seconds for a hold that takes long to end."""


@dataclass
class Round:
    """
    One report, its refused folios looked at again.

    :ivar labels: Of folios with a surplus and paths, by label
    :ivar passing: Folios that were refused, but only for a while
    :ivar missed: Held pages that were not said to be persistent, by path
    :ivar wrong: Folios that were, without being held
    :ivar excused: Those of them which the guest says it did hold all the time, because the machine was busy
    :ivar counted: What changed while the report was made
    """

    labels: Counter[str] = field(default_factory=Counter)
    passing: int = 0
    missed: list[str] = field(default_factory=list)
    wrong: list[dict[str, Any]] = field(default_factory=list)
    excused: int = 0
    counted: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0


@contextmanager
def churning(name: str, changes: bool = True) -> Iterator[Guest]:
    """
    Boot a kernel and let it churn.

    :param changes: Whether anything goes on but pages being held
    :raises GuestError: if it does not come that far
    """
    files = kernels.fetch(kernel(name))
    image = initramfs.build(files, workload.build(SCENE.name), SCENE)
    arguments = ("churn_changes=1",) if changes else ()
    for last in (False, True):
        with Guest(
            files.vmlinuz, image, SCENE.memory_mib, SCENE.hotplug_mib, agent=True, arguments=arguments, devices=DISKS
        ) as guest:
            try:
                guest.wait_for("READY")
            except GuestError as error:
                if EMULATOR_FAULT not in str(error) or last:
                    raise
                continue
            check(guest)
            yield guest
            return


def check(guest: Guest) -> None:
    """Raise GuestError if the guest is not well."""
    bad = re.findall(r"^.*(?:FAIL |BUG:|Oops|Call Trace|blocked for more).*$", guest.serial(), re.MULTILINE)
    if bad:
        raise GuestError("\n".join(bad[:10]) + "\n" + guest.serial()[-3000:])


def held(guest: Guest) -> list[int]:
    """Return the page frames that the guest holds for ever."""
    found = [int(pfn, 16) for pfn in re.findall(r"^HELD \S+ (\S+)", guest.serial(), re.MULTILINE)]
    assert len(found) == PLANTED
    return found


def connect(name: str, guest: Guest) -> Any:
    """Return a Program of the guest."""
    types: dict[str, Any] = {"default_symbols": "none"}
    if name == "5.10":  # its BTF is not in its memory
        types = {"symbols": (str(kernels.fetch(kernel(name)).vmlinux),), "default_symbols": "main"}
    return open_target(TargetSpec(qemu=str(guest.drgn_socket), **types)).prog


def surplus(record: dict[str, Any]) -> int:
    """Return how many references of a folio nothing explains, but for that of who takes it off the LRU."""
    extra: int = record["extra"] or 0
    return extra - ("isolated" in (record["reason"], *record["also"]))


def look(prog: Any, pages: list[int], looks: Looks = LOOKS) -> Round:
    """Report on a guest, and compare with what it holds."""
    began = time.monotonic()
    context = Context.fresh(prog)
    paths = [find_path(path) for path in PATHS]
    question = Question(paths, None, lambda reason: not reason.kernel_memory, looks)
    report = Report(context, question)
    result = Round()
    persistent: dict[str, list[tuple[int, int]]] = {path: [] for path in PATHS}
    passing = set()
    for record in report.records():
        if record["kind"] != "folio" or surplus(record) <= 0:
            continue
        result.labels[str(record["confirmed"])] += 1
        end = record["pfn"] + (1 << record["order"])
        # Much is refused for good without being held: what ramfs has, THPs by compaction, memory that goes offline.
        if record["confirmed"] != "persistent" or (not record["confirmed_extra"] and record["reason"] not in HELD):
            passing.add(record["pfn"])
            continue
        persistent[record["path"]].append((record["pfn"], end))
        # What the loop device writes to the file that is the swap area, it holds for as long as that takes. Besides,
        # 5.10 could not move any page of ramfs, held or not: then persistent is right.
        if record["mapping"] not in ("ram_aops", "ramfs_aops") and not any(record["pfn"] <= pfn < end for pfn in pages):
            result.wrong.append(record)
    for path, folios in persistent.items():
        result.missed += [f"{path} {pfn:#x}" for pfn in pages if not any(start <= pfn < end for start, end in folios)]
    totals = report.totals
    result.passing = len(passing)
    result.counted = Counter(
        changing=totals.changing,
        changed_blocks=totals.changed_blocks,
        new_blocks=totals.new_blocks,
        unreadable=totals.unreadable_pages,
        offline=totals.offline_blocks,
        unconfirmed=totals.unconfirmed,
    )
    result.seconds = time.monotonic() - began
    return result


def slow(guest: Guest) -> set[int]:
    """Return page frames that were held for long enough to be persistent once, because the machine is so busy."""
    lines = re.findall(r"^SLOW \d+ (.*)", guest.serial(), re.MULTILINE)
    return {int(pfn, 16) for line in lines for pfn in line.split()}


def excuse(guest: Guest, result: Round) -> None:
    """Take off what the guest says that it did hold for so long. It does when it has let go."""
    deadline = time.monotonic() + PATIENCE
    while result.wrong and time.monotonic() < deadline:
        found = slow(guest)
        left = [record for record in result.wrong if record["pfn"] not in found]
        result.excused += len(result.wrong) - len(left)
        result.wrong = left
        time.sleep(0.5)


def main() -> int:
    """Look again and again, for as long as was asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kernels", nargs="*", default=[entry.name for entry in KERNELS], metavar="KERNEL")
    parser.add_argument("--minutes", type=float, default=10.0, help="of each kernel (default: 10)")
    arguments = parser.parse_args()
    bad = False
    for name in arguments.kernels:
        bad |= not run(name, 60 * arguments.minutes)
    return bad


def run(name: str, seconds: float) -> bool:
    """Look at one kernel for some time. Return whether all was as it should be."""
    total, labels, rounds = Counter[str](), Counter[str](), 0
    with churning(name) as guest:
        prog, end = connect(name, guest), time.monotonic() + seconds
        while time.monotonic() < end:
            result = look(prog, held(guest))
            check(guest)
            excuse(guest, result)
            rounds += 1
            labels += result.labels
            total += result.counted + Counter(
                missed=len(result.missed), wrong=len(result.wrong), excused=result.excused
            )
            for what in (*result.missed, *result.wrong):
                print(f"{name}: round {rounds}: {what}"[:600], flush=True)
        blocks = re.findall(r"^BLOCKS (.*)", guest.serial(), re.MULTILINE)[-1:]
    print(f"{name}: {rounds} rounds; {dict(labels)}; {dict(total)}; blocks: {', '.join(blocks)}", flush=True)
    return not total["missed"] and not total["wrong"]


if __name__ == "__main__":
    sys.exit(main())
