# SPDX-License-Identifier: LGPL-2.1-or-later
"""All questions about one scene on one kernel."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from tests.vm.dumps import Dump

from . import questions, said
from .answers import VACATED, Answer
from .judge import Row, row
from .questions import Answers
from .said import Folio, Record, Said

# What virtio-mem asks for at a time, at the most (5.10: MAX_ORDER - 1).
SUB_BLOCK_PAGES = 1024


@dataclass(frozen=True)
class BlockRow:
    """What was said of a memory block, and what became of it."""

    block: int
    path: str
    said: str
    answer: str

    @property
    def agrees(self) -> bool:
        """Whether they are the same: by now, or later, is for the kernel to choose."""
        return self.said == self.answer or (self.said.startswith("later") and self.answer in ("yes", "no -EBUSY"))


@dataclass
class Result:
    """One scene on one kernel."""

    kernel: str
    release: str
    scene: str
    rows: list[Row] = field(default_factory=list)
    blocks: list[BlockRow] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    """Questions that this kernel cannot be asked."""


def ask(dump: Dump) -> Result:
    """Put every question about a dump to its kernel."""
    heard = said.read(dump)
    result = Result(dump.kernel, dump.release, dump.scene.name)

    def add(path: str, answers: Answers) -> None:
        by_pfn = {folio.pfn: folio for folio in heard.folios}
        result.rows += [row(by_pfn[pfn], path, told) for pfn, told in sorted(answers.items())]

    add("mbind", questions.move(dump, heard.folios, questions.MOVE))
    add("mbind-move-all", questions.move(dump, heard.folios, questions.MOVE_ALL))
    add("split", questions.split(dump, heard.folios))
    add("compaction-sync", questions.compact(dump, heard.folios))
    add("contig", _contig(dump, heard))
    answers, result.blocks = _offline(dump, heard)
    add("offline", answers)
    return result


def _refused(folio: Folio, path: str) -> bool:
    said = folio.said[path]
    return bool(said["verdict"] == "refused" and said["duration"] != "transient")


@dataclass(frozen=True)
class _Company:
    """Scenarios that are asked about at the same time, as none is in the way of another."""

    scenarios: frozenset[str]
    refused: bool


def _companies(folios: Iterable[Folio], path: str) -> list[_Company]:
    """
    Return who may be alive at the same time.

    All of which nothing is refused. Others only if no two have folios in one sub-block: the kernel gives up a sub-block
    at the first folio that it cannot have. Huge pages stay together, as they take each other's place in the pool.
    """
    by_scenario: dict[str, list[Folio]] = {}
    for folio in folios:
        huge = folio.said[path]["type"] == "hugetlb"
        for name in folio.scenarios:
            by_scenario.setdefault("hugetlb" if huge else name, []).append(folio)
    free = {name for name, mine in by_scenario.items() if not any(_refused(f, path) for f in mine)} - {"hugetlb"}
    groups: list[tuple[set[str], set[int]]] = []
    for name in sorted(set(by_scenario) - free - {"hugetlb"}):
        places = {frame // SUB_BLOCK_PAGES for folio in by_scenario[name] for frame in folio.frames}
        for names, taken in groups:
            if taken.isdisjoint(places):
                names.add(name)
                taken |= places
                break
        else:
            groups.append(({name}, places))
    huge = {name for folio in by_scenario.get("hugetlb", ()) for name in folio.scenarios}
    result = [_Company(frozenset(free), False)] + [_Company(frozenset(names), True) for names, _ in groups]
    return result + [_Company(frozenset(huge), True)] * bool(huge)


def _among(folios: Iterable[Folio], names: frozenset[str]) -> list[Folio]:
    return [folio for folio in folios if names.issuperset(folio.scenarios)]


def _contig(dump: Dump, heard: Said) -> Answers:
    """Ask virtio-mem for everything, with some scenarios alive at a time."""
    inside = [folio for folio in heard.folios if folio.pfn in dump.hotplug_pfns]
    result: Answers = {}
    for company in _companies(inside, "contig"):
        mine = _among(inside, company.scenarios)
        # What scenarios held that were ended is looked at, too: a write that never ends outlives its process.
        _, answers = questions.unplug(dump, inside, company.scenarios)
        # It takes one sub-block after another: where it sleeps, those behind are not asked for.
        blocked = any(told.answer is Answer.BLOCKED for told in answers.values())
        answers = _reached("contig", inside, answers, _anywhere if blocked else _sub_block)
        result.update((folio.pfn, answers[folio.pfn]) for folio in mine)
    return result


def _anywhere(folio: Folio) -> int:
    return 0


def _sub_block(folio: Folio) -> int:
    return folio.pfn // SUB_BLOCK_PAGES


def _reached(path: str, folios: list[Folio], answers: Answers, place: Callable[[Folio], int]) -> Answers:
    """Of folios that nothing was said against, and that stayed beside one that something was: there is no answer."""
    left = [folio for folio in folios if answers[folio.pfn].answer not in VACATED]
    culprits = {place(folio) for folio in left if _refused(folio, path)}
    result = dict(answers)
    for folio in left:
        if not _refused(folio, path) and place(folio) in culprits:
            result[folio.pfn] = replace(answers[folio.pfn], answer=Answer.NOT_REACHED)
    return result


def _verdict(said: Record) -> str:
    """Return the verdict on a block, with the errno where it is no."""
    answer = (said["answer"] or "").partition(":")[0]
    return f"no {answer}" if said["verdict"] == "no" else str(said["verdict"])


def _offline(dump: Dump, heard: Said) -> tuple[Answers, list[BlockRow]]:
    """Offline each block of the hot-plugged node by itself; once more for what was not reached."""
    inside = [folio for folio in heard.folios if folio.pfn in dump.hotplug_pfns]
    verdicts = {record["block"]: _verdict(record["paths"]["offline"]) for record in heard.blocks}
    result: Answers = {}
    blocks: list[BlockRow] = []
    for block in range(
        dump.hotplug_pfns.start // questions.PAGES_PER_BLOCK, dump.hotplug_pfns.stop // questions.PAGES_PER_BLOCK
    ):
        became, answers = questions.offline(dump, heard.folios, block)
        mine = [folio for folio in inside if folio.pfn in answers]
        blocks.append(BlockRow(block, "offline", verdicts[block], became))
        reached = _reached("offline", mine, answers, _anywhere)
        result.update(reached)
        unanswered = [folio for folio in mine if reached[folio.pfn].answer is Answer.NOT_REACHED]
        if unanswered:
            names = frozenset(name for folio in unanswered for name in folio.scenarios)
            company = _among(mine, names)
            _, again = questions.offline(dump, company, block, names)
            if again:  # or it gave up at once, this time
                again = _reached("offline", company, again, _anywhere)
                result.update((folio.pfn, again[folio.pfn]) for folio in unanswered)
    return result, blocks
