# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A guest under random load is stopped at random instants, every folio of its hot-plugged memory is judged, and then the
kernel is made to offline that memory.

    python -m tests.vm.truth.load [KERNEL...] [--instants N] [--seed S] [--json FILE] [--no-write]

Writes docs/load.json, from which `python -m tests.vm.truth` makes a table of docs/accuracy.md.

Processes are stopped before the instant, so that what they hold they still hold when the kernel is asked. What the
kernel was doing for them at that instant goes on to its end. Of what is found by who holds a folio (--holders), and of
some checks, drgn_thp says that it ends by itself. A folio of which something else was said that did not come true is
judged once more from a second dump, a moment after the first. If that verdict is another one, and came true, the folio
was in the hands of something that has ended by itself all the same.

Processes stop themselves when they get a signal. They are not frozen by their cgroup: 5.10 wakes a frozen process for
what the kernel asks of it (task_work), and does not let it do that (fixed by 943ad0b62e3c ("kernel: rerun task_work
while freezing in get_signal()"), in v6.11). It depends on the moment, then, whether a ring of io_uring that was closed
just before keeps its buffers: in one of several guests that go on from the same instant it did, and in another it did
not. Nor are they stopped by SIGSTOP, which is the same in every kernel.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy
import numpy.typing

from drgn_thp.context import Context
from drgn_thp.describe import Describer
from drgn_thp.folios import Folios
from drgn_thp.gates import Verdicts, find_path
from drgn_thp.report import Question, Report
from drgn_thp.rows import concatenate
from drgn_thp.target import TargetSpec, open_target
from tests.vm import initramfs, kernels, workload
from tests.vm.booted import booted
from tests.vm.dumps import Dump, start
from tests.vm.guest import Guest, GuestError
from tests.vm.matrix import KERNELS, kernel
from tests.vm.rewind import Agent, Rewound
from tests.vm.scenes import Scene

INSTANTS = 20
"""Per kernel."""
SCENE = Scene("load", hotplug_mib=256)
MOVABLE = "MOVABLE"
KSM_RUN = "/sys/kernel/mm/ksm/run"
RUN_SECONDS = (0.2, 0.8)
STOP_SECONDS = 0.003
"""The longest pause between the stop of the processes and that of the machine."""
WARM_UP_SECONDS = 3.0
# In seconds that the guest runs, of all its CPUs.
OFFLINE_SECONDS = 8.0
"""Longer than offlining takes in a guest of this size, if it ends."""
REST_SECONDS = 0.6
"""For how long nothing must have changed any more, if what was refused for good is all that is left."""
KILL_SECONDS = 10
"""Within which what is killed ends, unless it sleeps for good."""
SETTLE_SECONDS = 0.6
"""At least, between the two looks: an end of I/O may take as long as offlining was given to come across it."""
# Nothing is waited for without end in these guests: what is locked or written out becomes free.
PASSING = frozenset({"transient", "will-block"})

LOAD = Path(__file__).resolve().parents[3] / "docs/load.json"

Mask = numpy.typing.NDArray[numpy.bool_]


@dataclass
class Block:
    """One memory block at one instant."""

    number: int
    said: str
    became: str
    left: int
    """Folios of it that were judged, and stayed."""
    said_again: str = ""
    """What was said a moment later, if a second look was needed."""

    @property
    def right(self) -> bool:
        """Whether what was said came true. If it was said to take a while ("later", "blocks"), anything may."""
        return self.became in (self.said, self.said_again) or self.said in ("later", "blocks")


@dataclass
class Instant:
    """What came of one instant."""

    number: int
    folios: int = 0
    pages: int = 0
    passed: int = 0
    """Folios that were said to go, and went."""
    refused: dict[str, int] = field(default_factory=dict)
    """Folios that were said to stay, and stayed, by reason."""
    passing: dict[str, dict[str, int]] = field(default_factory=dict)
    """Folios that were said to stay for a while, by reason: how many of them went, and stayed."""
    held: dict[str, dict[str, int]] = field(default_factory=dict)
    """Of these, those that no check says that of, but who holds them: by kinds of holders."""
    ended: list[dict[str, Any]] = field(default_factory=list)
    """Folios of which the verdict became another one a moment later, and that one came true."""
    wrong: list[dict[str, Any]] = field(default_factory=list)
    """All others, with what drgn_thp says of them."""
    blocks: list[Block] = field(default_factory=list)
    asked_seconds: float = 0.0
    """The longest time that the kernel was given to offline a block."""
    types: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    """What kept from finding all holders."""
    seconds: float = 0.0


@dataclass
class LoadResult:
    """One kernel."""

    kernel: str
    release: str
    seed: int
    instants: list[Instant] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def folios(self) -> int:
        """Folios judged, at all instants."""
        return sum(instant.folios for instant in self.instants)

    @property
    def passed(self) -> int:
        """Folios that were said to go, and went."""
        return sum(instant.passed for instant in self.instants)

    @property
    def refused(self) -> Counter[str]:
        """Folios that were said to stay, and stayed, by reason."""
        return sum((Counter(instant.refused) for instant in self.instants), Counter())

    @property
    def passing(self) -> dict[str, Counter[str]]:
        """Folios that were said to stay for a while, by reason: how many of them went, and stayed."""
        return _sum(instant.passing for instant in self.instants)

    @property
    def held(self) -> dict[str, Counter[str]]:
        """Of these, those that no check says that of, but who holds them: by kinds of holders."""
        return _sum(instant.held for instant in self.instants)

    @property
    def ended(self) -> Counter[str]:
        """Folios in the hands of something that ended by itself, by the verdicts at both looks."""
        return Counter(f"{word['first']} -> {word['second']}" for instant in self.instants for word in instant.ended)

    @property
    def wrong(self) -> list[dict[str, Any]]:
        """Verdicts that did not come true."""
        return [record for instant in self.instants for record in instant.wrong]

    @property
    def wrong_blocks(self) -> list[tuple[int, Block]]:
        """Memory blocks of which the verdict did not come true, with the number of the instant."""
        return [(instant.number, block) for instant in self.instants for block in instant.blocks if not block.right]

    @property
    def blocks(self) -> Counter[str]:
        """How often each fate of a memory block was seen."""
        return Counter(block.became for instant in self.instants for block in instant.blocks)

    def summary(self) -> str:
        """Return all figures, in a few lines."""
        lines = [
            f"{self.kernel}: {len(self.instants)} instants, {self.folios} folios, "
            f"{self.seconds:.0f} s (seed {self.seed})",
            f"  said to go, and went: {self.passed}",
            f"  said to stay, and stayed: {self.refused.total()} {dict(self.refused)}",
            f"  said to stay for a while: { {reason: dict(counts) for reason, counts in self.passing.items()} }",
            f"    of these by who holds them: { {kind: dict(counts) for kind, counts in self.held.items()} }",
            f"  ended by itself between two looks: {dict(self.ended)}",
            f"  wrong: {len(self.wrong)}",
            f"  blocks: {dict(self.blocks)}, wrong: {self.wrong_blocks}",
        ]
        return "\n".join(lines + [f"    {json.dumps(record)}" for record in self.wrong[:20]])

    def reasons(self) -> dict[str, dict[str, int]]:
        """Return how many folios were said to be refused for what, and how many of these stayed."""
        seen: dict[str, dict[str, int]] = {}
        for name, stayed in self.refused.items():
            seen[name] = {"observed": stayed, "refused": stayed}
        for name, fates in self.passing.items():
            counts = seen.setdefault(name, {"observed": 0, "refused": 0})
            counts["observed"] += fates.total()
            counts["refused"] += fates.total() - fates["went"]
        return seen

    def row(self) -> dict[str, Any]:
        """Return what docs/accuracy.md says of it."""
        passing = sum(self.passing.values(), Counter())
        return {
            "kernel": self.kernel,
            "instants": len(self.instants),
            "folios": self.folios,
            "said to go, went": self.passed,
            "said to stay, stayed": self.refused.total(),
            "said to stay for a while": passing.total(),
            "of these by who holds them": sum(self.held.values(), Counter()).total(),
            "of these stayed": passing.total() - passing["went"],
            "let go between two looks": self.ended.total(),
            "wrong": len(self.wrong),
            "blocks": self.blocks.total(),
            "wrong blocks": len(self.wrong_blocks),
            "seconds": round(self.seconds),
            "reasons": self.reasons(),
            "holders": {kind: dict(sorted(counts.items())) for kind, counts in sorted(self.held.items())},
        }

    def to_json(self) -> dict[str, Any]:
        """Return everything, and the sums."""
        names = ("folios", "passed", "refused", "passing", "held", "ended", "wrong", "blocks")
        return {**asdict(self), "total": {name: getattr(self, name) for name in names}}


def _sum(parts: Iterable[dict[str, dict[str, int]]]) -> dict[str, Counter[str]]:
    total: dict[str, Counter[str]] = {}
    for part in parts:
        for name, counts in part.items():
            total.setdefault(name, Counter()).update(counts)
    return total


class Look:
    """What drgn_thp says of all folios of the hot-plugged memory in one dump."""

    def __init__(self, dump: Dump) -> None:
        spec = TargetSpec(core=str(dump.vmcore), symbols=(str(dump.vmlinux),), default_symbols="main")
        self.context = Context.of(open_target(spec).prog)
        self.path = find_path("offline").of(self.context.kernel)
        blocks = self._ask(Question([self.path], listed=lambda reason: False))
        wanted = {r["block"] for r in blocks if r["kind"] == "block" and r["zones"] == [MOVABLE]}
        # As ``report --holders`` has it.
        report = self._ask(Question([self.path], blocks=lambda block: block.id in wanted, holders=True))
        self.blocks = {r["block"]: r for r in report if r["kind"] == "block"}
        self.problems = report[-1]["incomplete"]
        self.folios = self._all_folios()
        self.verdicts: Verdicts = self.path.judge(self.folios)
        self.reasons = numpy.array([*(gate.reason.name for gate in self.path.gates), "ok"])[self.verdicts.primary]
        by_check = [*(gate.duration.value for gate in self.path.gates), ""]
        self.durations = [by_check[index] for index in self.verdicts.primary.tolist()]
        self.holders: dict[int, str] = {}
        """Of folios that are let go by themselves, which no check says: kinds of holders, by row."""
        said = {r["pfn"]: r for r in report if r["kind"] == "folio"}
        for row in (self.verdicts.primary >= 0).nonzero()[0].tolist():
            record = said[int(self.folios.pfn[row])]
            if record["duration"] != self.durations[row]:
                self.durations[row] = record["duration"]
                kinds = {holder["kind"] for holder in record["holders"] if holder["refs"]}
                self.holders[row] = " and ".join(sorted(kinds))

    def _ask(self, question: Question) -> list[dict[str, Any]]:
        return list(Report(self.context, question).records())

    def _all_folios(self) -> Folios:
        memmap = self.context.memmap
        rows = []
        for block in self.blocks.values():
            for pfn in range(block["start_pfn"], block["end_pfn"], memmap.pages_per_chunk):
                chunk = memmap.read(pfn, min(memmap.pages_per_chunk, block["end_pfn"] - pfn))
                rows.append(memmap.rows(chunk, memmap.live(chunk).rows))
        return self.context.folios(concatenate(rows))

    def refused_for_good(self) -> Mask:
        """Return which folios are refused by any check that does not end by itself."""
        bits = sum(1 << i for i, gate in enumerate(self.path.gates) if gate.duration.value not in PASSING)
        result: Mask = (self.verdicts.mask & numpy.uint64(bits)) != 0
        result[list(self.holders)] = False
        return result

    def describe(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """Return the records of some folios."""
        describer, result = Describer(self.context), []
        for row in rows:
            part = self.context.folios(self.context.memmap.read_folio(int(self.folios.pfn[row])))
            result += list(describer.folios(part, [self.path], None))
        return result

    def types(self) -> dict[str, int]:
        """Return how many folios there are of each type, and of each order above 0."""
        describer = Describer(self.context)
        words = Counter(describer._types(self.folios))
        words.update(f"order {order}" for order in self.folios.order.tolist() if order)
        return dict(sorted(words.items()))

    def verdict_at(self, pfn: int) -> tuple[str, str, tuple[Any, ...]]:
        """Return reason and duration of the folio that a page frame belongs to, and what it looks like."""
        f = self.context.folios(self.context.memmap.read_folio(pfn))
        looks = (int(f.pfn[0]), int(f.order[0]), int(f.refcount[0]), int(f.mapping[0]), bool(f.lru[0]))
        row = int(numpy.searchsorted(self.folios.pfn, f.pfn[0]))
        if row < len(self.folios) and self.folios.pfn[row] == f.pfn[0]:
            return str(self.reasons[row]), self.durations[row], looks
        return "ok", "", looks  # free by now


def _dump(name: str, directory: Path) -> Dump:
    files = kernels.fetch(kernel(name))
    return Dump(name, SCENE, files.version, files.release, directory, files.vmlinux, files.modules)


def run(name: str, instants: int = INSTANTS, seed: int = 1) -> LoadResult:
    """
    Look at one kernel at some instants of one boot.

    :raises GuestError: if the guest does not do what it should
    """
    began = time.monotonic()
    files = kernels.fetch(kernel(name))
    chance = random.Random(f"{name} {seed}")
    with tempfile.TemporaryDirectory(prefix="load.") as scratch:
        scene = replace(SCENE, arguments=(f"load_seed={seed}",))
        base = replace(_dump(name, Path(scratch)), scene=scene)
        base.initramfs.write_bytes(initramfs.build(files, workload.build(scene.name), scene))
        result = LoadResult(name, base.release, seed)
        with booted(lambda: start(base)) as guest:
            agent = Agent(guest)
            time.sleep(WARM_UP_SECONDS)
            for number in range(instants):
                at = time.monotonic()
                dump = _stop(agent, base, chance)
                _check(guest)
                instant = _judge(number, dump)
                instant.seconds = time.monotonic() - at
                result.instants.append(instant)
                print(f"{name}: instant {number}: {_in_short(instant)}", file=sys.stderr, flush=True)
                guest.qmp("cont")
                agent.ask("go")
                _set_ksm(agent, 1)
            agent.close()
    result.seconds = time.monotonic() - began
    return result


def _in_short(instant: Instant) -> str:
    return (
        f"{instant.folios} folios, {sum(instant.refused.values())} refused, {instant.passing} passing, "
        f"{len(instant.ended)} ended, {len(instant.wrong)} wrong, "
        f"{[(block.said, block.became) for block in instant.blocks]}, {instant.seconds:.1f} s"
    )


def _check(guest: Guest) -> None:
    bad = re.findall(r"^.*(?:FAIL|Out of memory|BUG|WARNING|Oops).*$", guest.serial(), re.MULTILINE)
    if bad:
        raise GuestError("the load came to grief:\n" + "\n".join(bad[:20]))


def _set_ksm(agent: Agent, run: int) -> None:
    if agent.ask(f"write 20 {KSM_RUN} {run}") != [["W", "0"]]:
        raise GuestError("ksmd does not come to rest")


def _stop(agent: Agent, base: Dump, chance: random.Random) -> Dump:
    """Let the guest run for a while, stop it, and return the dump of that instant."""
    time.sleep(chance.uniform(*RUN_SECONDS))
    # ksmd would go on merging pages while the kernel is asked about them.
    _set_ksm(agent, 0)
    agent.ask("stop")
    time.sleep(chance.uniform(0, STOP_SECONDS))
    agent.guest.dump(base.vmcore)
    base.state.unlink(missing_ok=True)
    agent.guest.save(base.state)
    return base


def _judge(number: int, dump: Dump) -> Instant:
    look = Look(dump)
    f = look.folios
    instant = Instant(number, len(f), int((1 << f.order).sum()), types=look.types(), problems=look.problems)
    stayed, lasting = numpy.zeros(len(f), dtype=bool), look.refused_for_good()
    for block, record in look.blocks.items():
        inside = (f.pfn >= record["start_pfn"]) & (f.pfn < record["end_pfn"])
        began = time.monotonic()
        became, still = _offline(dump, block, range(record["start_pfn"], record["end_pfn"]), f, inside, lasting)
        instant.asked_seconds = max(instant.asked_seconds, time.monotonic() - began)
        stayed |= still
        said = record["paths"]["offline"]["verdict"]
        instant.blocks.append(Block(block, said, became, int(still.sum())))
    _compare(look, stayed, dump, instant)
    return instant


def _offline(dump: Dump, block: int, frames: range, f: Folios, inside: Mask, expected: Mask) -> tuple[str, Mask]:
    """
    Make the kernel offline a block.

    :param expected: Which folios are expected to stay
    :return: What became of it, and which of the folios that were inside are still there
    """
    rows = inside.nonzero()[0]
    with Rewound(dump) as guest:
        deadline = guest.guest.ran() + OFFLINE_SECONDS
        [[_, word]] = guest.ask(f"write 0 /sys/devices/system/memory/memory{block}/state offline")
        stayed, since = inside, guest.guest.ran()
        while True:
            before, stayed = stayed, _still_used(guest, frames, f, rows)
            if word != "running":
                return "yes" if word == "0" else f"errno {word}", stayed
            now = guest.guest.ran()
            # Whatever is not expected to stay is still to go; and if nothing is left, so is the end of it.
            if (stayed != before).any() or (stayed & ~expected).any() or not stayed.any():
                since = now
            if now > deadline or now - since > REST_SECONDS:
                break
            time.sleep(0.03)
            [[_, word]] = guest.ask("wait 0")
        [[_, word]] = guest.ask(f"kill {KILL_SECONDS}")
    return {"blocked": "blocks"}.get(word, word), stayed


def _still_used(guest: Rewound, frames: range, f: Folios, rows: Any) -> Mask:
    """Return which folios have page frames that are neither free nor gone."""
    used = numpy.zeros(len(frames) + 1, dtype=numpy.int64)
    for _, first, pages, _ in guest.ask(f"used {frames.start} {frames.stop}"):
        at = int(first, 0) - frames.start
        used[at + 1 : at + 1 + int(pages)] = 1
    before = numpy.cumsum(used)
    at = f.pfn[rows] - frames.start
    result = numpy.zeros(len(f), dtype=bool)
    result[rows] = before[numpy.minimum(at + (1 << f.order[rows]), len(frames))] > before[at]
    return result


def _compare(look: Look, stayed: Mask, dump: Dump, instant: Instant) -> None:
    refused = look.verdicts.primary >= 0
    passing = numpy.isin(look.durations, list(PASSING))
    lasting = look.refused_for_good()
    instant.passed = int((~refused & ~stayed).sum())
    instant.refused = dict(Counter(look.reasons[refused & ~passing & stayed].tolist()))
    for row in (refused & passing).nonzero()[0]:
        counts = instant.passing.setdefault(str(look.reasons[row]), {})
        fate = "went" if not stayed[row] else "stayed for another reason" if lasting[row] else "stayed"
        counts[fate] = counts.get(fate, 0) + 1
        if row in look.holders:
            counts = instant.held.setdefault(look.holders[row], {})
            counts[fate] = counts.get(fate, 0) + 1
    # Of those that stay for a while only, those that did stay have come to be held for longer, or something is wrong.
    wrong = numpy.where(passing, stayed & ~lasting, refused != stayed).nonzero()[0].tolist()
    if not wrong and all(block.right for block in instant.blocks):
        return
    second = _second_look(dump, instant.asked_seconds)
    for block in instant.blocks:
        block.said_again = second.blocks[block.number]["paths"]["offline"]["verdict"]
    for row, record in zip(wrong, look.describe(wrong)):
        pfn = int(look.folios.pfn[row])
        first = (str(look.reasons[row]), str(look.durations[row]))
        reason, duration, looks = second.verdict_at(pfn)
        came_true = (reason != "ok" and duration not in PASSING) == bool(stayed[row])
        words = {
            "first": first[0],
            "second": reason,
            "stayed": bool(stayed[row]),
            "now": looks,
            **record,
        }
        if (reason, duration) != first and came_true:
            instant.ended.append(words)
        else:
            instant.wrong.append(words)


def _second_look(dump: Dump, asked_seconds: float) -> Look:
    """Go on from the instant for as long as the kernel was given to move folios away, and look again."""
    with tempfile.TemporaryDirectory(prefix="load.") as scratch:
        again = replace(dump, directory=Path(scratch))
        with Rewound(dump) as guest:
            time.sleep(max(SETTLE_SECONDS, asked_seconds))
            guest.guest.dump(again.vmcore)
        return Look(again)


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.vm.truth.load", description=__doc__.strip().split("\n\n")[0])
    parser.add_argument("kernels", nargs="*", metavar="KERNEL", help="default: all of the matrix")
    parser.add_argument("--instants", type=int, default=INSTANTS, help="per kernel (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of what the processes do (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="guests at a time (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there")
    parser.add_argument("--no-write", action="store_true", help="do not touch docs/")
    options = parser.parse_args()
    names = options.kernels or [entry.name for entry in KERNELS]
    with ProcessPoolExecutor(min(options.jobs, os.cpu_count() or 1)) as pool:
        results = list(pool.map(run, names, [options.instants] * len(names), [options.seed] * len(names)))
    for result in results:
        print(result.summary())
    if options.json:
        options.json.write_text(json.dumps([result.to_json() for result in results], indent=1) + "\n")
    if not options.no_write:
        LOAD.write_text(json.dumps([result.row() for result in results], indent=1) + "\n")
    sys.exit(any(result.wrong or result.wrong_blocks for result in results))


if __name__ == "__main__":
    _main()
