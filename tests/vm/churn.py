# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A guest that forks, faults huge pages, swaps, and offlines and onlines memory blocks, looked at meanwhile.

    python -m tests.vm.churn [KERNEL...] [--minutes M]

Twenty of its pages are held from beginning to end; any other is held for less than a second at a time. So every report
has to say of the twenty that they are held all the time, and of nothing else. Two look at it at once: one from outside,
by QMP, and one from inside, by /proc/kcore. Both are judged in the same way.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from drgn_thp.target import TargetSpec, open_target
from tests.vm import initramfs, kernels, looking, workload
from tests.vm.booted import booted
from tests.vm.guest import Guest, GuestError
from tests.vm.inside import Machine, machine
from tests.vm.looking import PATHS, WORD, Round, look
from tests.vm.matrix import KERNELS, kernel
from tests.vm.rewind import Agent
from tests.vm.scenes import Scene

PLANTED = 20
# A disk that takes its time, in nanoseconds.
SLOW = f"driver=null-co,node-name=slow,size={1 << 30},latency-ns={300 * 10**6}"
SLOW_DISK = ("-blockdev", SLOW, "-device", "virtio-blk-pci,drive=slow")
SWAP_PAGES = 16384
SCENE = Scene("churn", modules=("virtio_blk",))
SCRIPT = """
import sys
sys.path.insert(0, "/packages")
from looking import look_for_ever
look_for_ever()
"""
PATIENCE = 20.0
"""Seconds for a hold that takes long to end."""
FIRST_SECONDS = 600.0
"""In which a Python inside has to come to its first round."""
TICK = 1.0
"""Seconds between two times that the guest tells its time."""
ANON = 1 << 12
"""Of /proc/kpageflags."""


@contextmanager
def churning(name: str, changes: bool = True, inside: bool = False) -> Iterator[Guest]:
    """
    Boot a kernel and let it churn.

    :param changes: Whether anything goes on but pages being held
    :param inside: Whether it also looks at itself
    :raises GuestError: if it does not come that far
    """
    files = kernels.fetch(kernel(name))
    with ExitStack() as stack:
        swap = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="churn."))) / "swap"
        make_swap(swap)
        drive = f"file={swap},format=raw,if=none,id=swap,cache=unsafe"
        disks = (*SLOW_DISK, "-drive", drive, "-device", "virtio-blk-pci,drive=swap")
        python = Machine((), (), SCENE.memory_mib)
        if inside:
            python = stack.enter_context(machine(name, SCRIPT, (Path(looking.__file__),)))
        scene = replace(SCENE, devices=(*disks, *python.devices), memory_mib=python.memory_mib)
        image = initramfs.build(files, workload.build(scene.name), scene)
        arguments = (*(("churn_changes=1",) if changes else ()), *python.arguments)
        with booted(
            lambda: Guest(
                files.vmlinuz,
                image,
                scene.memory_mib,
                scene.hotplug_mib,
                agent=True,
                arguments=arguments,
                devices=scene.devices,
            )
        ) as guest:
            check(guest)
            yield guest


def make_swap(path: Path) -> None:
    """Make a sparse file that is a swap area: what mkswap writes."""
    header = bytearray(4096)
    header[1024:1032] = struct.pack("<II", 1, SWAP_PAGES - 1)  # version, last page
    header[-10:] = b"SWAPSPACE2"
    path.write_bytes(header)
    os.truncate(path, SWAP_PAGES * len(header))


def check(guest: Guest) -> None:
    """Raise GuestError if the guest, or who looks at it from inside, is not well."""
    bad = r"^.*(?:FAIL |BUG:|Oops|Call Trace|blocked for more|Traceback|Out of memory).*$"
    found = re.findall(bad, guest.serial(), re.MULTILINE)
    if found:
        raise GuestError("\n".join(found[:10]) + "\n" + guest.serial()[-3000:])


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


# -- what is said, and what is true ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Slow:
    """What the guest says it held for long, because the machine is so busy. Times are of the guest's clock."""

    what: str
    since: float
    until: float
    pages: frozenset[int]


@dataclass
class Wrong:
    """
    A folio that was said to be held all the time, and is none of the twenty.

    :ivar since: When it was looked at again for the first time
    :ivar until: When it had been for the last time
    """

    where: str
    record: dict[str, Any]
    since: float
    until: float

    def excuse(self, slow: list[Slow]) -> str | None:
        """Return how the guest did hold it for that time, if it did."""
        pages = range(self.record["pfn"], self.record["pfn"] + (1 << self.record["order"]))
        for hold in slow:
            if hold.since <= self.since and hold.until >= self.until and any(page in pages for page in hold.pages):
                return hold.what
        return None


@dataclass
class Judge:
    """
    Compares what is said of one guest with what it holds.

    :ivar rounds: How many of each who looks
    :ivar said: Folios and paths that were said to be held
    :ivar missed: Held pages that were not said to be held, by path
    :ivar wrong: Folios that were, without being held; until the guest says that they were
    :ivar excused: How many of them the guest has said that of, by how it held them
    :ivar leaked: Those of which the kernel itself lost a reference
    """

    guest: Guest
    pages: list[int]
    rounds: Counter[str] = field(default_factory=Counter)
    said: Counter[str] = field(default_factory=Counter)
    labels: dict[str, Counter[str]] = field(default_factory=dict)
    passing: Counter[str] = field(default_factory=Counter)
    asked: Counter[str] = field(default_factory=Counter)
    missed: list[str] = field(default_factory=list)
    wrong: list[Wrong] = field(default_factory=list)
    leaked: list[Wrong] = field(default_factory=list)
    excused: dict[str, Counter[str]] = field(default_factory=dict)
    counted: dict[str, Counter[str]] = field(default_factory=dict)
    offset: float = float("inf")

    def tick(self) -> None:
        """Compare the guest's clock with ours. It was told some time ago, so the least difference is the best."""
        told = re.findall(r"^CLOCK (\d+)\n", self.guest.serial(), re.MULTILINE)
        if told:
            self.offset = min(self.offset, time.monotonic() - int(told[-1]) / 1000)

    def judge(self, who: str, found: Round, offset: float = 0.0, error: float = 0.0) -> None:
        """
        Judge one round.

        :param offset: Of the clock of who looked from the guest's
        :param error: How far wrong that may be
        """
        self.rounds[who] += 1
        self.labels.setdefault(who, Counter()).update(found.labels)
        self.counted.setdefault(who, Counter()).update(found.counted)
        self.passing[who] += found.passing
        self.said[who] += len(found.held)
        said: dict[str, list[range]] = {path: [] for path in PATHS}
        # All looks took about as long.
        first = found.scanned + (found.looked - found.scanned) / looking.LOOKS.number
        since, until = first - offset + error, found.looked - offset - error
        for record in found.held:
            pages = range(record["pfn"], record["pfn"] + (1 << record["order"]))
            said[record["path"]].append(pages)
            if not any(page in pages for page in self.pages):
                self.wrong.append(Wrong(who, record, since, until))
        self.asked[who] += len(self.pages) * len(PATHS)
        where = f"{who}, round {self.rounds[who]}"
        for path, folios in said.items():
            self.missed += [
                f"{where}: {path} {page:#x}" for page in self.pages if not any(page in folio for folio in folios)
            ]

    def outside(self, prog: Any) -> None:
        """Look from outside, and judge that."""
        self.tick()
        found = look(prog)
        self.tick()
        self.judge("outside", found, self.offset, TICK)

    def inside(self) -> None:
        """Judge the rounds from inside that have come since."""
        for line in re.findall(rf"^{WORD} (.*)\n", self.guest.serial(), re.MULTILINE)[self.rounds["inside"] :]:
            self.judge("inside", Round(**json.loads(line)))

    def excuse(self, patience: float = PATIENCE) -> None:
        """Take off what the guest says that it did hold for so long. It does when it has let go."""
        deadline = time.monotonic() + patience
        while True:
            slow, wrong = self._slow(), []
            for one in self.wrong:
                what = one.excuse(slow)
                if what is None:
                    wrong.append(one)
                else:
                    self.excused.setdefault(one.where, Counter())[what] += 1
            self.wrong = wrong
            if not self.wrong or time.monotonic() >= deadline:
                return
            time.sleep(0.5)

    def end(self) -> None:
        """
        End all processes, and take off those folios that are anonymous memory still in use: of nobody, and for ever.

        It is the last that can be asked of the guest.
        """
        with closing(Agent(self.guest)) as agent:
            agent.ask("end")
            folios = {(wrong.record["pfn"], wrong.record["order"]) for wrong in self.wrong}
            left = {folio: agent.ask(f"used {folio[0]} {folio[0] + (1 << folio[1])}") for folio in sorted(folios)}
        for wrong in list(self.wrong):
            lines = left[wrong.record["pfn"], wrong.record["order"]]
            if lines and all(int(flags, 0) & ANON for *_, flags in lines):
                self.leaked.append(wrong)
                self.wrong.remove(wrong)

    def _slow(self) -> list[Slow]:
        lines = re.findall(r"^SLOW (\S+) (\d+) (\d+) (.*)\n", self.guest.serial(), re.MULTILINE)
        return [
            Slow(what, int(since) / 1000, int(until) / 1000, frozenset(int(page, 16) for page in pages.split()))
            for what, since, until, pages in lines
        ]

    def summary(self) -> str:
        """Return the figures, a line for each who looked."""
        blocks = re.findall(r"^BLOCKS (.*)", self.guest.serial(), re.MULTILINE)[-1:]
        lines = []
        for who, rounds in self.rounds.items():
            missed = sum(what.startswith(who) for what in self.missed)
            wrong = sum(what.where == who for what in self.wrong)
            lines.append(
                f"{who}: {rounds} rounds; held pages asked {self.asked[who]}, missed {missed}; "
                f"wrong {wrong}, excused {dict(self.excused.get(who, {}))}, "
                f"leaked {sum(what.where == who for what in self.leaked)}; passing folios {self.passing[who]}; "
                f"labels {dict(self.labels[who])}; counted {dict(+self.counted[who])}"
            )
        return "\n".join([*lines, f"blocks: {', '.join(blocks)}; held for long: {len(self._slow())}"])


# -- for a while -------------------------------------------------------------------------------------------------------


def run(name: str, seconds: float, inside: int = 0, dump: Path | None = None) -> Judge:
    """
    Look at one kernel for some time, at least once.

    :param inside: How often at least to look also from inside, if at all
    :param dump: Where to dump the guest if a folio is said to be held that is not
    :raises GuestError: if the guest is not well, or who looks from inside does not get on
    """
    with churning(name, inside=bool(inside)) as guest:
        judge = Judge(guest, held(guest))
        prog, began, end = connect(name, guest), time.monotonic(), time.monotonic() + seconds
        last, seen = began, 0
        while not judge.rounds or time.monotonic() < end or judge.rounds["inside"] < inside:
            told = len(judge.missed)
            judge.outside(prog)
            check(guest)
            judge.inside()
            for what in judge.missed[told:]:
                print(f"{name}: missed {what}", flush=True)
            if judge.rounds["inside"] > seen:
                last, seen = time.monotonic(), judge.rounds["inside"]
            if inside and time.monotonic() > last + FIRST_SECONDS:
                raise GuestError(f"nothing new from inside for {FIRST_SECONDS:.0f} s\n{guest.serial()[-3000:]}")
        judge.excuse()
        check(guest)
        if judge.wrong:
            if dump:
                guest.dump(dump)
            judge.end()
        for what, ones in (("wrong", judge.wrong), ("leaked", judge.leaked)):
            for one in ones:
                print(f"{name}: {what} {one}", flush=True)
        for line in judge.summary().splitlines():
            print(f"{name}: {line}", flush=True)
    return judge


def main() -> int:
    """Look again and again, for as long as was asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kernels", nargs="*", default=[entry.name for entry in KERNELS], metavar="KERNEL")
    parser.add_argument("--minutes", type=float, default=10.0, help="of each kernel (default: 10)")
    parser.add_argument("--dump", type=Path, help="where to dump a guest of which something wrong is said")
    parser.add_argument("--outside", action="store_true", help="do not look from inside")
    arguments = parser.parse_args()
    bad = False
    for name in arguments.kernels:
        judge = run(name, 60 * arguments.minutes, 0 if arguments.outside else 2, arguments.dump)
        bad |= bool(judge.missed or judge.wrong)
    return bad


if __name__ == "__main__":
    sys.exit(main())
