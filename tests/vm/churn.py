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
# Of isolation for offlining, which lasts for as long as somebody tries to.
ELSEWHERE = frozenset({"pageblock-isolated"})


@dataclass
class Round:
    """
    One report, its refused folios looked at again.

    :ivar labels: Of folios and paths, by label
    :ivar passing: Folios that were refused, but only for a while
    :ivar missed: Held pages that were not said to be persistent, by path
    :ivar wrong: Folios that were, without being held
    :ivar counted: What changed while the report was made
    """

    labels: Counter[str] = field(default_factory=Counter)
    passing: int = 0
    missed: list[str] = field(default_factory=list)
    wrong: list[dict[str, Any]] = field(default_factory=list)
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
    with Guest(
        files.vmlinuz, image, SCENE.memory_mib, SCENE.hotplug_mib, agent=True, arguments=arguments, devices=DISKS
    ) as guest:
        guest.wait_for("READY")
        check(guest)
        yield guest


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


def look(prog: Any, pages: list[int], looks: Looks = LOOKS) -> Round:
    """Report on the hot-plugged memory of a guest, and compare with what it holds."""
    began = time.monotonic()
    context = Context.fresh(prog)
    first = min(pages)
    zone = max(
        (zone for zone in context.zones if zone.start_pfn <= first < zone.end_pfn), key=lambda zone: zone.start_pfn
    )
    paths = [find_path(path) for path in PATHS]
    question = Question(
        paths,
        lambda block: zone.start_pfn <= block.start_pfn < zone.end_pfn,
        lambda reason: not reason.kernel_memory and reason.name not in ELSEWHERE,
        looks,
    )
    report = Report(context, question)
    result = Round()
    persistent: dict[str, list[tuple[int, int]]] = {path: [] for path in PATHS}
    passing = set()
    for record in report.records():
        if record["kind"] != "folio":
            continue
        result.labels[str(record["confirmed"])] += 1
        end = record["pfn"] + (1 << record["order"])
        if record["confirmed"] != "persistent":
            passing.add(record["pfn"])
            continue
        persistent[record["path"]].append((record["pfn"], end))
        if not any(record["pfn"] <= pfn < end for pfn in pages):
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


def main() -> int:
    """Look again and again, for as long as was asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kernels", nargs="*", default=[entry.name for entry in KERNELS], metavar="KERNEL")
    parser.add_argument("--minutes", type=float, default=10.0, help="of each kernel (default: 10)")
    arguments = parser.parse_args()
    bad = False
    for name in arguments.kernels:
        total, labels = Counter[str](), Counter[str]()
        with churning(name) as guest:
            end = time.monotonic() + arguments.minutes * 60
            prog, rounds = connect(name, guest), 0
            while time.monotonic() < end:
                result = look(prog, held(guest))
                check(guest)
                rounds += 1
                labels += result.labels
                total += result.counted + Counter(missed=len(result.missed), wrong=len(result.wrong))
                for what in (*result.missed, *result.wrong):
                    print(f"{name}: round {rounds}: {what}", flush=True)
            blocks = re.findall(r"^BLOCKS .*", guest.serial(), re.MULTILINE)[-1:]
        bad |= bool(total["missed"] or total["wrong"])
        print(f"{name}: {rounds} rounds, {dict(labels)}, {dict(total)}, {blocks}", flush=True)
    return bad


if __name__ == "__main__":
    sys.exit(main())
