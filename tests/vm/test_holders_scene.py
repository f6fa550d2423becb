# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Everybody who holds a page is found, on every kernel: by process, descriptor, kind and number, and nobody else.

What counts is the whole machine, and not only what was planted: no reference is left over, and none is found twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from drgn_thp.context import Context
from drgn_thp.gates import find_path
from drgn_thp.holders import registry
from drgn_thp.kernel import GUP_PIN_COUNTING_BIAS
from drgn_thp.ledger import explain
from drgn_thp.target import TargetSpec, open_target
from tests.odd.cores import Core, filtered

from .dumps import Dump, ensure_dump
from .held import Found, Machine, Planted, planted, remove_user_and_free
from .matrix import KERNELS, WITH_DRIVERS, Kernel, kernel
from .scenes import DRIVERS, HOLDERS, KINDS_OF_DRIVERS, Scene

pytestmark = pytest.mark.vm

# What finds each kind that the workload plants.
WALKERS: dict[str, str] = {
    "pipe": "pipe",
    "io-uring": "io-uring",
    "xdp": "xdp",
    "socket": "socket",
    "direct-io": "direct-io",
    "aio": "aio",
    "udmabuf": "udmabuf",
    "process-vm": "process-vm",
    "vfio": "vfio",
    "vmci": "vmci",
    "orangefs": "orangefs",
    "rds": "rds",
    "fuse": "fuse",
    "guest-memfd": "guest-memfd",
    "rdma": "rdma",
    "page-io": "page-io",
    "fault": "fault",
    "isolated": "isolated",
    "sendfile": "sendfile",
    "tls": "tls",
    "buffer-super": "buffer-head",
    "buffer-group": "buffer-head",
    "buffer-journal": "buffer-head",
    "batch": "lru-batch",
    "lost": "lost",
}
# Of buffers in use: what for, and of which device. No balance would show it.
BUFFERS = {
    "buffer-super": "superblock of ext4",
    "buffer-group": "group descriptors of ext4",
    "buffer-journal": "journal of ext4: transaction",
}
DEVICES = {"buffers_kept": "loop0", "buffers_journal": "loop2"}
# In which queue of a socket, where it takes more than a queue to have it there.
QUEUES = {
    "sockmap_corked": "corked sockmap message",
    "sockmap_received": "sockmap queue",
    "error_queue": "error queue",
    "backlog": "backlog",
}
# Of the kernel's own pages, which have no balance.
KERNELS_OWN = {"packet-ring": "packet-ring"}
# Copied after all: 6.1 alone has no way for pages into a datagram.
COPIES = {"6.1": {"datagram"}}


@dataclass(frozen=True)
class Case:
    """One kernel's dump, in one form."""

    dump: Dump
    machine: Machine
    found: Found
    planted: list[Planted]

    @property
    def known(self) -> list[Planted]:
        return [one for one in self.planted if one.kind in WALKERS]


def whole(dump: Dump, directory: Path) -> Path:
    return dump.vmcore


def without_pages(dump: Dump, directory: Path) -> Path:
    core = Core(dump.vmcore, directory / "vmcore")
    remove_user_and_free(Machine.of(dump), core)
    return core.path


def by_makedumpfile(dump: Dump, directory: Path) -> Path:
    core = Core(dump.vmcore, directory / "vmcore")
    core.mend()
    return filtered(core, directory / "kdump", "-c", "-d", "31")


Form = Callable[[Dump, Path], Path]
FORMS: tuple[Form, ...] = (whole, without_pages, by_makedumpfile)


# makedumpfile 1.7 takes slab objects of these for free pages.
TOO_NEW = ("6.12", "7.3")
Param = tuple[Kernel, Scene, Form]
CASES: list[Param] = [
    (k, HOLDERS, form) for k in KERNELS for form in FORMS if form is not by_makedumpfile or k.name not in TOO_NEW
]
MORE_CASES: list[Param] = [(k, DRIVERS, form) for k in WITH_DRIVERS for form in (whole, without_pages)]


def name_of(param: Param) -> str:
    return f"{param[0].name}-{param[2].__name__}"


# That the other forms say the same is another test.
WHOLE = [param for param in CASES + MORE_CASES if param[2] is whole]
# For what is planted in one of the scenes only.
of_holders = pytest.mark.parametrize("case", CASES, indirect=True, ids=name_of, scope="module")


@pytest.fixture(scope="module", params=CASES + MORE_CASES, ids=name_of)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    param: Param = request.param
    entry, scene, form = param
    dump = ensure_dump(entry, scene=scene)
    machine = Machine.of(dump, form(dump, tmp_path_factory.mktemp("core")))
    copies = COPIES.get(entry.name, set())
    return Case(dump, machine, machine.find(), [one for one in planted(dump) if one.scenario not in copies])


@of_holders
def test_enough_is_planted(case: Case) -> None:
    """Many, of many kinds."""
    assert len(case.planted) >= 25
    assert len({one.kind for one in case.planted}) >= 12


def test_kinds_are_known(case: Case) -> None:
    """Each is of a kind that this test knows."""
    assert {one.kind for one in case.planted} <= WALKERS.keys() | KERNELS_OWN.keys()


def test_everybody_is_found(case: Case) -> None:
    """All processes that have it and no other; its descriptor; how often it holds the page."""
    for one in case.known:
        head = case.machine.head(one.pfn)
        assert head >= 0, one
        holders = [row for row in case.found.sheets[head].holders if row[0].kind == WALKERS[one.kind]]
        mine = [
            held
            for held, _, processes in holders
            if frozenset(pid for pid, _, _ in processes) == one.pids
            and (not one.pids or one.descriptor in {(pid, fd) for pid, _, fd in processes})
        ]
        assert mine, (one, holders)
        assert one.gets in (None, sum(held.gets for held in mine)), (one, mine)
        assert one.pins in (None, sum(held.pins for held in mine)), (one, mine)


@of_holders
def test_vfio_without_tables_of_an_iommu(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the process's own tables, which lack one page by now: that is left over, and nothing is found in its place."""
    monkeypatch.setattr("drgn_thp.holders.vfio.domain_tables", lambda ground, domain: None)
    found = case.machine.find()
    one = next(h for h in case.planted if h.scenario == "vfio_remapped" and h.pfn in found.unbalanced())
    assert found.unbalanced() == {one.pfn: (GUP_PIN_COUNTING_BIAS, 1)}
    held = [held for sheet in found.sheets.values() for held, _, _ in sheet.holders if held.kind == "vfio"]
    assert held
    assert not any(one.exact for one in held)


def test_pages_of_the_kernel(case: Case) -> None:
    """By process and descriptor, too."""
    for one in case.planted:
        if one.kind in KERNELS_OWN:
            found = case.machine.find_everywhere(one.pfn)
            assert [(row["kind"], row["descriptors"]) for row in found] == [(KERNELS_OWN[one.kind], [one.descriptor])]


def test_pages_of_a_heap(case: Case) -> None:
    """Pages of a DMA buffer, which the dump itself has to tell by what is written in them."""
    marks = [mark for mark in case.dump.marks if mark.scenario == "dma_heap"]
    assert len(marks) == 20 or case.dump.scene is not HOLDERS or "dma_heap" in case.dump.lacks
    for mark in marks:
        [found] = case.machine.find_everywhere(mark.pfn)
        assert found["kind"] == "dma-heap"
        assert {pid for pid, _ in found["descriptors"]} == {mark.pid}


def test_pages_of_graphics(case: Case) -> None:
    """Of buffers that are open, or are DMA buffers only; found by what is written in them, as those of a heap."""
    marks = [mark for mark in case.dump.marks if mark.scenario in ("drm_open", "drm_exported")]
    assert len(marks) == (10 if case.dump.scene is DRIVERS else 0)
    for mark in marks:
        [(held, references, processes)] = case.found.sheets[mark.pfn].holders
        assert (held.kind, references, held.pins) == ("drm", 1, 0)
        assert {pid for pid, _, _ in processes} == {mark.pid}


def test_everything_balances(case: Case) -> None:
    """Of every folio of the machine, references and pins; nothing is found that is not there."""
    assert case.found.findings.problems == []
    assert {hex(pfn): left for pfn, left in case.found.unbalanced().items()} == {}


def test_queues(case: Case) -> None:
    """What would balance by another queue as well is in the one where it was put."""
    for one in case.known:
        if one.scenario in QUEUES:
            found = [held.owner.what for held, _, _ in case.found.sheets[case.machine.head(one.pfn)].holders]
            assert any(QUEUES[one.scenario] in what for what in found), (one, found)


@of_holders
def test_buffers_in_use(case: Case) -> None:
    """Whose they are, and what for."""
    planted = [one for one in case.planted if one.kind in BUFFERS]
    assert {one.kind for one in planted} == BUFFERS.keys()
    for one in planted:
        found = [held.owner for held, _, _ in case.found.sheets[case.machine.head(one.pfn)].holders]
        assert any(o.what.startswith(BUFFERS[one.kind]) and o.device == DEVICES[one.scenario] for o in found), found


def test_what_is_busy_has_a_user(case: Case) -> None:
    """Just the folios that do not move for their buffers; what was merely used last does not count."""
    busy = {int(pfn) for f in case.machine.tables for pfn in f.pfn[f.buffer_busy]}
    used = {
        pfn
        for pfn, sheet in case.found.sheets.items()
        if any(held.kind == "buffer-head" and held.owner.cpu is None for held, _, _ in sheet.holders)
    }
    assert used == busy != set()


@pytest.mark.parametrize("case", WHOLE, indirect=True, ids=name_of, scope="module")
def test_each_walker_counts(case: Case) -> None:
    """Without it, just the folios that it explains are left unexplained, by what it explains."""
    drivers = case.dump.scene is DRIVERS
    for kind in sorted(registry().walkers):
        if (kind in KINDS_OF_DRIVERS) != drivers:
            continue
        mine = {}
        for pfn, sheet in case.found.sheets.items():
            rows = [(held, references) for held, references, _ in sheet.holders if held.kind == kind]
            left = sheet.unexplained + sum(references for _, references in rows)
            pins = sheet.unexplained_pins + sum(held.pins for held, _ in rows if not held.expected)
            if left or pins:
                mine[pfn] = (left, pins)
        assert case.machine.find({kind}).unbalanced() == mine, kind
        own = {case.machine.head(one.pfn) for one in case.known if WALKERS[one.kind] == kind}
        expected = {p for p in own if any(h.expected for h, _, _ in case.found.sheets[p].holders)}
        assert own - expected <= mine.keys(), kind


def test_pins_weigh_what_they_should(case: Case) -> None:
    """A pin of a small folio is 1024 references: else pins and references could not both balance."""
    assert any(
        references == held.pins * GUP_PIN_COUNTING_BIAS > 0
        for sheet in case.found.sheets.values()
        for held, references, _ in sheet.holders
    )


@pytest.mark.parametrize("name", ["6.1", *TOO_NEW])
def test_without_dwarf(name: str) -> None:
    """Nothing is said by stacks that nobody can unwind, but that they are there; and of the others nothing is wrong."""
    dump = ensure_dump(kernel(name), scene=HOLDERS)
    spec = TargetSpec(core=str(dump.vmcore), default_symbols="none")
    found = Machine(Context.of(open_target(spec).prog)).find()
    problems = {problem.split(":")[0] for problem in found.findings.problems}
    assert problems == {"walker page-io", "walker process-vm", "walker isolated"}
    assert all(min(left) >= 0 for left in found.unbalanced().values())
    # Lists of isolated folios need no frames.
    kinds = {held.kind for sheet in found.sheets.values() for held, _, _ in sheet.holders}
    assert {"isolated", "direct-io", "tls", "fuse"} <= kinds
    assert not {"page-io", "fault", "process-vm"} & kinds


@of_holders
def test_rings_that_are_being_closed(case: Case) -> None:
    """Nobody has them open; they end by themselves, unless somebody who has to help is stopped: so does the verdict."""
    context = case.machine.context
    for scenario, passes in (("uring_closing", True), ("uring_stopped", False)):
        one = next(p for p in case.planted if p.scenario == scenario and p.kind == "io-uring")
        sheet = case.found.sheets[case.machine.head(one.pfn)]
        assert [held.owner.what for held, _, _ in sheet.holders] == [
            "fixed buffer 0, ring being closed" + ", which waits for a process that is stopped" * (not passes)
        ]
        assert sheet.passing is passes
        # Not offline, which would have nowhere to move what is in boot memory.
        contig = find_path("contig").of(context.kernel)
        for holders in (False, True):
            [told] = explain(context, [hex(one.pfn)], [contig], holders=holders)
            lasts = "transient" if passes and holders else "permanent"
            assert (told.records[0]["reason"], told.records[0]["duration"]) == ("dma-pinned", lasts), scenario
            assert told.refusals[0][1][0].duration == lasts


@pytest.mark.parametrize("name", TOO_NEW)
def test_what_was_left_out_is_said(name: str, tmp_path: Path) -> None:
    """Nobody is found who is not there."""
    dump = ensure_dump(kernel(name), scene=HOLDERS)
    found = Machine.of(dump, by_makedumpfile(dump, tmp_path)).find()
    assert found.findings.problems
    assert all(min(left) >= 0 for left in found.unbalanced().values())
