# SPDX-License-Identifier: LGPL-2.1-or-later
"""``--search`` on real dumps, with no walker at all: what it is sure of is right, and what it is not, it says."""

from __future__ import annotations

import time

import numpy
import pytest
from drgn import FaultError

from drgn_thp import formulas
from drgn_thp.search import chains as chains_module
from drgn_thp.search import find_chains
from drgn_thp.search.memory import Memory
from tests.vm.lab import ensure_dump
from tests.vm.matrix import KERNELS, Kernel
from tests.vm.scenes import SCENES

from .opened import Opened

pytestmark = pytest.mark.vm
PINS = next(scene for scene in SCENES if scene.name == "pins")


def held(opened: Opened) -> tuple[dict[int, set[int]], dict[int, str]]:
    """Return the processes that planted each folio that is held, and for what."""
    pids: dict[int, set[int]] = {}
    scenarios: dict[int, str] = {}
    for mark in opened.dump.marks:
        head = opened.head_by_guest(mark.pfn)
        if mark.held and head in opened.position:
            pids.setdefault(head, set()).add(mark.pid)
            scenarios[head] = mark.scenario
    f = opened.folios
    extra = formulas.extra_references(f)
    wanted = [pfn for pfn in pids if extra[opened.position[pfn]] > 0]
    return {pfn: pids[pfn] for pfn in wanted}, scenarios


def pages(opened: Opened, heads: list[int]) -> numpy.ndarray[tuple[int], numpy.dtype[numpy.int64]]:
    return numpy.array([1 << int(opened.folios.order[opened.position[pfn]]) for pfn in heads], numpy.int64)


@pytest.mark.parametrize("entry", KERNELS, ids=lambda entry: entry.name)
def test_chains_lead_to_the_files_of_who_holds(entry: Kernel) -> None:
    """Pipes, buffers of io_uring, sockets, and more, of which the search knows nothing."""
    opened = Opened(ensure_dump(entry, scene=PINS))
    pids, scenarios = held(opened)
    heads = sorted(pids)
    found = find_chains(opened.context, numpy.array(heads), pages(opened, heads))
    assert found.problems == []
    right = set()
    for head in heads:
        for record in found.records(head):
            if record["confidence"] == "fair":
                assert record["file"]
                assert record["pid"] is None or record["pid"] in pids[head], (scenarios[head], record)
                if record["pid"] is not None:
                    right.add(scenarios[head])
    assert {"mlocked_held", "io_uring_base", "io_uring_thp", "tmpfs_spliced", "ksm_held"} <= right
    assert len(right) >= 15


def test_what_nobody_points_to_has_no_chain(opened: Opened) -> None:
    """Pages of a process that nobody holds: of most there is no chain at all, and of none one of fair confidence."""
    f = opened.folios
    quiet = formulas.PageAnon(f) & (formulas.extra_references(f) == 0) & (f.batches == 0)
    heads = f.pfn[quiet & (f.order == 0)][:500]
    found = find_chains(opened.context, heads, numpy.ones(len(heads), numpy.int64))
    assert len(heads) > 250
    assert not [chain for trail in found.chains.values() for chain in trail if chain.confidence == "fair"]


def test_it_ends_when_its_time_is_over(opened: Opened) -> None:
    """And says so."""
    heads = numpy.array(sorted(held(opened)[0]))
    started = time.monotonic()
    found = find_chains(opened.context, heads, pages(opened, heads.tolist()), seconds=0)
    assert time.monotonic() - started < 5
    assert found.problems == ["search: it was given up after 0 s"]
    assert not found.chains


def test_too_much_is_counted(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    """Objects beyond the limit are not followed."""
    monkeypatch.setattr(chains_module, "MAX_THINGS", 2)
    heads = numpy.array(sorted(held(opened)[0]))
    found = find_chains(opened.context, heads, pages(opened, heads.tolist()))
    assert any("objects were not followed" in problem for problem in found.problems)


def test_pages_are_chosen_by_what_is_in_them(opened: Opened) -> None:
    """No page of a process is read, nor a free one; all slabs and stacks are."""
    memory = Memory(opened.context, time.monotonic() + 60)
    memory.choose()
    chosen = numpy.concatenate([numpy.arange(first, first + count) for first, count, _ in memory._runs])
    f = opened.folios
    for mask, inside in ((formulas.PageAnon(f) & f.lru, False), (f.type == 6, True)):
        heads = f.pfn[mask]
        assert len(heads) > 100
        assert numpy.isin(heads, chosen).sum() == (len(heads) if inside else 0)
    assert len(chosen) < opened.context.end_pfn // 2


def test_memory_that_cannot_be_read_is_counted_once(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often it is searched."""
    memory = Memory(opened.context, time.monotonic() + 60)
    memory.choose()
    first = next(first for first, count, reserved in memory._runs if count > 2 and not reserved)

    class Program:
        def __getattr__(self, name: str) -> object:
            return getattr(opened.context.prog, name)

        def read(self, address: int, size: int, physical: bool = False) -> bytes:
            if physical and address <= first + 1 << 12 < address + size:
                raise FaultError("not there", address)
            data: bytes = opened.context.prog.read(address, size, physical)
            return data

    class Lacking:
        prog = Program()
        kernel = opened.context.kernel

    memory.context = Lacking()  # type: ignore[assignment]
    for _ in range(2):
        memory.pointers(numpy.array([1], numpy.uint64), numpy.array([2], numpy.uint64))
        assert memory.unreadable == 1
