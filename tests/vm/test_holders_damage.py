# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Walkers on damaged dumps: whatever leads them astray costs a count of that walker alone, and bounded time.

Each walker is run by itself on damage of its own; that others do not suffer from it is asked of half of them at a time,
as running them all takes seconds.

What to damage is not listed: a walker runs, and of the memory that it read some words become cycles (the address of
another word that it reads), wild pointers and absurd numbers. So walkers that come are tested when they come.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from itertools import chain

import pytest
from drgn import FaultError

from drgn_thp.context import Context
from drgn_thp.holders import registry
from drgn_thp.holders.balance import sheets
from drgn_thp.holders.files import Files
from drgn_thp.holders.running import Findings, find_holders
from drgn_thp.target import TargetSpec
from tests.engine.damage import EXTREMES, Patient
from tests.engine.overlay import Overlay

from .dumps import Dump, ensure_dump
from .held import Machine
from .matrix import KERNELS, NO_GUEST_MEMFD, WITH_DRIVERS, Kernel, kernel
from .scenes import DRIVERS, HOLDERS, KINDS_OF_DRIVERS, Scene

pytestmark = pytest.mark.vm

FILES = "files"
"""What all walkers stand on: damaged, it may cost any of them."""
KEPT = "walker of files that files keep"
"""Looked for if a walker comes across files that nobody has open."""
STACKS = "stacks"
"""What walkers that look at stacks have in common."""
OF_STACKS = ("page-io", "fault", "isolated", "process-vm")
# What unwinds stacks reads page tables and lists of modules, which others use as well.
MAY_COST_OTHERS = (FILES, STACKS, *OF_STACKS)
# At the least, and until one of them is noticed; at the most.
SEEDS, MOST_SEEDS = 3, 24
# For one walker; it takes a tenth of a second, or three where stacks are unwound, and more on a busy machine.
SECONDS = 6.0
# For looking at files and for balances, which have no clock of their own.
ROOM_SECONDS = 20.0


class Watched(Overlay):
    """A dump that notes which physical addresses are read, and how many bytes at each."""

    def __init__(self, dump: Dump) -> None:
        self.reads: dict[int, int] = {}
        super().__init__(dump)

    def spec(self, dump: Dump) -> TargetSpec:
        """Return how to open a dump: with all that walkers need."""
        symbols = tuple(map(str, dump.symbols))
        return replace(super().spec(dump), symbols=symbols, default_symbols="main" if symbols else "none")

    def _read(self, address: int, count: int, position: int) -> bytes:
        self.reads[address] = max(count, self.reads.get(address, 0))
        return super()._read(address, count, position)


@dataclass
class Subject:
    """
    A dump that can be damaged.

    :ivar words: Physical addresses of 64 bits each that a walker reads, and that nothing else reads: for each read.
    """

    overlay: Watched
    machine: Machine
    words: dict[str, list[list[int]]] = field(default_factory=dict)

    @cached_property
    def whole(self) -> Findings:
        """What is found where nothing is damaged."""
        self.overlay.mend()
        findings = self.run()
        assert findings.problems == []
        return findings

    def run(self, only: Collection[str] = ()) -> Findings:
        """Run some walkers, or all; and make all balances and records."""
        off = registry().walkers.keys() - only if only else ()
        context = Context.of(self.overlay.prog)
        findings = find_holders(context, self.machine.suspects, off=off, seconds=SECONDS)
        for table in self.machine.tables:
            for sheet in sheets(context, table, findings):
                sheet.records()
        return findings

    def read_by(self, kind: str) -> dict[int, int]:
        """Return what one walker reads, or :data:`FILES` alone; without a name, what is read before either."""
        self.overlay.mend()
        self.overlay.reads = {}
        context = Context.of(self.overlay.prog)
        if not kind:
            return self.overlay.reads
        self.overlay.reads = {}
        if kind == FILES:
            list(Files(context).having([1]))
        else:
            find_holders(context, self.machine.suspects, off=registry().walkers.keys() - {kind})
        return self.overlay.reads


def words(reads: dict[int, int]) -> set[int]:
    return {a for start, size in reads.items() for a in range(start & ~7, start + size, 8)}


def own_words(reads: dict[int, int], own: set[int]) -> list[list[int]]:
    parts = ([a for a in range(start & ~7, start + size, 8) if a in own] for start, size in sorted(reads.items()))
    return [part for part in parts if part]


SCENES = [(entry, HOLDERS) for entry in KERNELS] + [(entry, DRIVERS) for entry in WITH_DRIVERS]


CASES = [
    pytest.param(scene, kind, id=f"{scene[0].name}-{kind}")
    for scene in SCENES
    for kind in (FILES, STACKS, *sorted(registry().walkers))
    if (kind in KINDS_OF_DRIVERS) == (scene[1] is DRIVERS)
]


@pytest.fixture
def subject(request: pytest.FixtureRequest) -> Subject:
    return subject_of(*request.param)


@lru_cache(maxsize=1)
def subject_of(entry: Kernel, scene: Scene) -> Subject:
    """Open a dump, and find out what each walker reads of it: that takes far longer than a test."""
    dump = ensure_dump(entry, scene=scene)
    overlay = Watched(dump)
    made = Subject(overlay, Machine(Context.of(overlay.prog)))
    assert len(made.machine.suspects)
    # Types are read once for all, by whoever asks first.
    find_holders(made.machine.context, made.machine.suspects)
    reads = {kind: made.read_by(kind) for kind in (FILES, *registry().walkers)}
    basis = words(made.read_by(""))
    read = {kind: words(of_kind) for kind, of_kind in reads.items()}
    common = set.intersection(*(read[kind] for kind in OF_STACKS[:-1]))
    alone = basis.union(read[FILES], *(theirs for kind, theirs in read.items() if kind not in OF_STACKS))
    made.words[STACKS] = own_words(dict.fromkeys(common, 8), common - alone)
    readers = Counter(chain.from_iterable(read.values()))
    for kind, of_kind in reads.items():
        own = {a for a in read[kind] if kind == FILES or readers[a] == 1} - basis
        made.words[kind] = own_words(of_kind, own)
    overlay.mend()
    return made


def damage(subject: Subject, kind: str, rng: random.Random) -> None:
    """Overwrite some of what a walker reads."""
    patient = Patient(subject.overlay)
    base = int(subject.overlay.prog["page_offset_base"].value_())
    reads = subject.words[kind]

    def word() -> int:
        # Of a large read few words mean anything, so what counts is how often it reads, and not how much.
        return rng.choice(rng.choice(reads))

    for _ in range(rng.choice((1, 4, 40, 400))):
        address = word()
        kinds = (base + word(), base + address, patient.pointer(rng), rng.choice(EXTREMES), rng.getrandbits(64))
        try:
            subject.overlay.write_physical(address, rng.choice(kinds).to_bytes(8, "little"))
        except (FaultError, ValueError):
            continue


def told(findings: Findings, kinds: Collection[str]) -> dict[str, tuple[str, int, int]]:
    """Return of some walkers how they fared."""
    return {o.kind: (o.state, o.claims, o.failures) for o in findings.outcomes if o.kind in kinds}


@pytest.mark.parametrize(("subject", "kind"), CASES, indirect=["subject"])
def test_damage_is_counted(subject: Subject, kind: str) -> None:
    """Nothing is raised, all comes to an end; and mostly, something is noticed."""
    if not subject.words[kind]:
        pytest.skip(f"this kernel has nothing that {kind} reads")
    only = [kind] if kind in registry().walkers else OF_STACKS
    noticed = False
    for seed in range(MOST_SEEDS):
        subject.overlay.mend()
        damage(subject, kind, random.Random(f"{subject.overlay.dump.kernel} {kind} {seed}"))
        start = time.monotonic()
        findings = subject.run(only)
        assert time.monotonic() - start <= SECONDS * len(only) + ROOM_SECONDS, seed
        noticed = noticed or bool(findings.problems)
        if kind not in MAY_COST_OTHERS:
            assert [p for p in findings.problems if not p.startswith((f"walker {kind}", KEPT))] == [], seed
        if noticed and seed + 1 >= SEEDS:
            break
    # All that is read of what this kernel does not have are names, of which none is wrong.
    lacking = kind == "guest-memfd" and kernel(subject.overlay.dump.kernel).lacks >= NO_GUEST_MEMFD
    assert noticed or lacking


@pytest.mark.parametrize("half", [0, 1])
@pytest.mark.parametrize("subject", SCENES, indirect=True, ids=lambda scene: f"{scene[0].name}-{scene[1].name}")
def test_damage_costs_nobody_else(subject: Subject, half: int) -> None:
    """What half of the walkers alone read is damaged: the other half says what it said before."""
    whole = subject.whole
    kinds = [kind for kind, words in subject.words.items() if words and kind not in MAY_COST_OTHERS]
    suffering, others = kinds[half::2], kinds[1 - half :: 2]
    subject.overlay.mend()
    for kind in suffering:
        damage(subject, kind, random.Random(f"{subject.overlay.dump.kernel} {kind}"))
    after = subject.run()
    assert told(after, others) == told(whole, others)
    mine = (*(f"walker {kind}" for kind in suffering), KEPT)
    assert [problem for problem in after.problems if not problem.startswith(mine)] == []
    assert told(after, suffering) != told(whole, suffering)
