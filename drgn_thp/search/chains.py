# SPDX-License-Identifier: LGPL-2.1-or-later
"""Chains of pointers from open files to folios."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy
from drgn import FaultError

from ..context import Context
from ..errors import UnknownLayout
from ..folios import Column
from ..holders.files import Files
from .memory import Late, Memory
from .objects import Thing, Things

MAX_LEVELS = 6
MAX_THINGS = 2048
"""Objects that are followed in one pass."""
MAX_SECONDS = 60.0
MAX_CHAINS = 4


@dataclass(frozen=True)
class Chain:
    """
    Things that point to one another, the first to a folio. It says who may hold it, and not that anybody does.

    :ivar confidence: ``fair``: each points to the beginning of the next, and a file's ``private_data`` to the last;
        ``low``: some point into the middle, as lists do that join what has nothing to do with one another; or it is
        a stack, on which there may be anything; ``none``: it leads to no file and no task
    :ivar file: Address of the ``struct file`` it comes from; 0 if from none
    :ivar task: Of the ``struct task_struct`` whose stack it is
    """

    things: tuple[str, ...]
    confidence: str
    file: int = 0
    task: int = 0


@dataclass
class Search:
    """
    What :func:`find_chains` found.

    :ivar problems: What was left out, in words
    """

    files: Files
    chains: dict[int, tuple[Chain, ...]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def records(self, pfn: int) -> list[dict[str, Any]]:
        """Return the chains of a folio as records."""
        result = []
        for chain in self.chains.get(pfn, ()):
            who: tuple[int | None, str | None, int | None] = (None, None, None)
            for descriptor in self.files.descriptors(chain.file)[:1] if chain.file else ():
                who = (descriptor.pid, descriptor.comm, descriptor.fd)
            if chain.task in self.files.tasks.by_address:
                task = self.files.tasks.by_address[chain.task]
                who = (task.tgid, task.comm, None)
            names = ("pid", "comm", "fd")
            result.append(
                {
                    "confidence": chain.confidence,
                    **dict(zip(names, who)),
                    "file": bool(chain.file),
                    "via": [*chain.things],
                }
            )
        return result


@dataclass(frozen=True)
class _Link:
    """That a thing points to another, or to a folio."""

    source: int
    exact: bool
    offset: int


def find_chains(
    context: Context, pfn: Column, pages: Column, files: Files | None = None, seconds: float = MAX_SECONDS
) -> Search:
    """
    Search the kernel's memory for what points to some folios, and for what points to that.

    :param pfn: Page frames of their heads, in ascending order
    :param pages: How many each has
    :param seconds: How long it may take; what was found until then is kept
    """
    files = Files(context) if files is None else files
    search = Search(files)
    if not len(pfn):
        return search
    memory = Memory(context, time.monotonic() + seconds)
    try:
        things = Things(context, files)
    except FaultError as error:  # an old drgn reads from memory where the direct mapping is
        search.problems.append(f"search: {error}")
        return search
    graph = _Graph(context, things, memory, search.problems)
    try:
        memory.choose()
        graph.grow(numpy.asarray(pfn, numpy.int64), numpy.asarray(pages, numpy.int64))
    except Late:
        search.problems.append(f"search: it was given up after {seconds:g} s")
    except (FaultError, UnknownLayout) as error:
        search.problems.append(f"search: {error}")
    for number, what in (
        (memory.unreadable, "pages or struct pages could not be read"),
        (memory.dropped, "pointers were left out: there are too many"),
        (graph.left, "objects were not followed: there are too many"),
    ):
        if number:
            search.problems.append(f"search: {number} {what}")
    for head in pfn.tolist():
        chains = graph.chains(head)
        if chains:
            search.chains[head] = chains
    return search


class _Graph:
    """Who points to whom, from folios upwards."""

    def __init__(self, context: Context, things: Things, memory: Memory, problems: list[str]) -> None:
        self.context = context
        self.things = things
        self.memory = memory
        self.left = 0
        self._things: dict[int, Thing] = {}
        self._to_folio: dict[int, list[_Link]] = {}
        self._to_thing: dict[int, list[_Link]] = {}
        self._open = frozenset(things.files.addresses)
        prog = context.prog
        self._private = int(prog.type("struct file").member("private_data").bit_offset) // 8
        self._problems = problems

    def grow(self, pfn: Column, pages: Column) -> None:
        """Find what points to folios, what to that, and so on."""
        size, start = self.context.layout.page_struct_size, self.context.layout.vmemmap
        low = numpy.uint64(start) + pfn.astype(numpy.uint64) * numpy.uint64(size)
        high = low + pages.astype(numpy.uint64) * numpy.uint64(size)
        number, value, place = self.memory.pointers(low, high)
        good = (value - numpy.uint64(start)) % numpy.uint64(size) == 0
        frontier = self._link(
            self._to_folio, [(int(pfn[i]), True, int(at)) for i, at in zip(number[good], place[good])]
        )
        for _ in range(MAX_LEVELS - 1):
            frontier = self._follow(frontier)
            if not frontier:
                break

    def _follow(self, frontier: list[Thing]) -> list[Thing]:
        frontier = sorted((thing for thing in frontier if not (thing.end or thing.is_file)), key=lambda t: t.address)
        if len(frontier) > MAX_THINGS:
            self.left += len(frontier) - MAX_THINGS
            frontier = frontier[:MAX_THINGS]
        low = numpy.array([thing.address for thing in frontier], numpy.uint64)
        high = numpy.array([thing.address + thing.size for thing in frontier], numpy.uint64)
        number, value, place = self.memory.pointers(low, high)
        links = []
        for i, pointer, at in zip(number.tolist(), value.tolist(), place.tolist()):
            thing = frontier[i]
            links.append((thing.address, pointer == thing.address, at))
        return self._link(self._to_thing, links)

    def _link(self, table: dict[int, list[_Link]], links: Sequence[tuple[int, bool, int]]) -> list[Thing]:
        """Note links, and return the things that were not known."""
        new: list[Thing] = []
        for target, exact, place in links:
            self.memory.check()
            source = self.things.at(place)
            if source is None:
                continue
            offset = self.things.offset(source, place)
            if table is self._to_thing and source.address == target:
                continue  # an empty list, or the like
            if source.is_file and source.address not in self._open:
                continue
            table.setdefault(target, []).append(_Link(source.address, exact, offset))
            if source.address not in self._things:
                self._things[source.address] = source
                new.append(source)
        return new

    def chains(self, pfn: int) -> tuple[Chain, ...]:
        """Return the best chains to a folio: the surest of them, and of these the shortest."""
        found: dict[tuple[str, int, int], Chain] = {}
        for sure in (True, False):
            self._chains(pfn, sure, found)
            if any(chain.confidence != "none" for chain in found.values()):
                break
        ranks = ("fair", "low", "none")
        best = sorted(found.values(), key=lambda chain: (ranks.index(chain.confidence), len(chain.things)))
        return tuple(chain for chain in best if chain.confidence == best[0].confidence)[:MAX_CHAINS]

    def _chains(self, pfn: int, sure: bool, found: dict[tuple[str, int, int], Chain]) -> None:
        """Go up level by level; where it is to be sure, by nothing but pointers to where things begin."""
        seen: set[int] = set()
        level = [((), link) for link in self._to_folio.get(pfn, ())]
        waiting: list[tuple[tuple[str, ...], str, _Link]] = [(path, "", link) for path, link in level]
        while waiting:
            behind: list[tuple[tuple[str, ...], str, _Link]] = []
            for path, below, link in waiting:
                thing = self._things[link.source]
                if thing.is_file:
                    fair = sure and link.offset == self._private
                    if fair or not sure:
                        chain = Chain((*path, thing.name), "fair" if fair else "low", file=thing.address)
                        found.setdefault((chain.confidence, thing.address, 0), chain)
                    continue
                if sure and path and (not link.exact or thing.cache == below or not thing.cache):
                    continue
                if thing.address in seen:
                    continue
                seen.add(thing.address)
                here = (*path, thing.name)
                if thing.stack:
                    if not sure and not path:  # what a stack leads to by way of something else is anything
                        found.setdefault(("low", 0, thing.stack), Chain(here, "low", task=thing.stack))
                    continue
                if not path:
                    found.setdefault(("none", 0, thing.address), Chain(here, "none"))
                behind += ((here, thing.cache, up) for up in self._to_thing.get(thing.address, ()))
            waiting = behind
