# SPDX-License-Identifier: LGPL-2.1-or-later
"""All questions about one scene on one kernel."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from tests.vm.dumps import PAGE_SIZE, Dump
from tests.vm.guest import GuestError
from tests.vm.rewind import COST, Cost

from . import questions, said
from .answers import VACATED, Answer, Told
from .judge import Row, row
from .log import Shown
from .questions import Answers
from .said import Folio, Record, Said

GIGANTIC_PAGES = 1 << 18
# The second time, who asks has nothing in a batch of a CPU any more. Others may.
TRIES = 5


@dataclass(frozen=True)
class BlockRow:
    """What was said of a memory block, and what became of it."""

    scene: str
    block: int
    path: str
    said: str
    answer: str
    again: bool = False
    """Whether the same guest was asked again."""

    @property
    def agrees(self) -> bool:
        """Whether they are the same: by now, or later, is for the kernel to choose."""
        if self.said.startswith("later"):
            return self.answer in ("yes", "no -EBUSY")
        return self.answer in self.said.split(", ")


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
    costs: dict[str, Cost] = field(default_factory=dict)
    """Of the guests, by path."""
    failure: str = ""
    """Why it came to no end, if it did not: what is here is what was answered before."""


def ask(dump: Dump) -> Result:
    """Put every question about a dump to its kernel."""
    result = Result(dump.kernel, dump.release, dump.scene.name)
    try:
        _ask(dump, result)
    except GuestError as error:  # its kernel has crashed: the others' answers are not lost with it
        result.failure = str(error)
    return result


def _ask(dump: Dump, result: Result) -> None:
    heard = said.read(dump)
    before = replace(COST)

    def add(path: str, answers: Answers) -> None:
        nonlocal before
        by_pfn = {folio.pfn: folio for folio in heard.folios}
        result.rows += [row(by_pfn[pfn], path, told) for pfn, told in sorted(answers.items())]
        spent, before = COST.since(before), replace(COST)
        so_far = result.costs.get(path, Cost())
        result.costs[path] = Cost(so_far.guests + spent.guests, so_far.seconds + spent.seconds, so_far.ran + spent.ran)

    add("mbind", questions.move(dump, heard.folios, questions.MOVE))
    add("mbind-move-all", questions.move(dump, heard.folios, questions.MOVE_ALL))
    add("split", questions.split(dump, heard.folios))
    add("compaction-sync", questions.compact(dump, heard.folios))
    add("contig", _contig(dump, heard))
    area = _cma_area(dump)
    if area:
        add("contig", _cma(dump, heard, area))
    answers, result.blocks, named = _offline(dump, heard)
    add("offline", answers)
    result.rows += [row(folio, "offline", told) for folio, told in _unmovable(heard, named)]
    heard.folios[:] = [_as_soft_offline(folio) for folio in heard.folios]
    soft = questions.soft_offline(dump, heard.folios)
    if soft is None:
        result.missing.append("soft-offline")
    else:
        add("soft-offline", soft)


def _as_soft_offline(folio: Folio) -> Folio:
    """
    Add what is to be expected of soft_offline_page(), which is no path of its own.

    It splits what is large, unless that is a huge page, and moves one page as offlining does, but not for ever.
    """
    said = folio.said["offline"]
    if said["reason"] in ("cma-pageblock", "no-target"):
        said = folio.said["contig"]  # it is the one page that is to go, not the area; and its own node will do
    if folio.order and said["type"] != "hugetlb" and folio.said["split"]["verdict"] == "refused":
        said = folio.said["split"]
    elif said["verdict"] == "ok" and said["batches"]:
        # Offlining empties them first.
        said = {
            **said,
            "verdict": "refused",
            "reason": "lru-batch",
            "duration": "transient",
            "check": "migrate_pages()",
        }
    lasting = "permanent" if said["duration"] == "endless" else said["duration"]
    return replace(folio, said={**folio.said, "soft-offline": {**said, "duration": lasting}})


def _refused(folio: Folio, path: str) -> bool:
    said = folio.said[path]
    return bool(said["verdict"] == "refused" and said["duration"] != "transient")


@dataclass
class _Company:
    """
    Scenarios that are asked about at the same time, as none is in the way of another.

    :ivar places: Where they have folios
    :ivar kept: Where they have folios that are refused
    :ivar free: Whether any of their folios is not refused
    :ivar blocks: Whether the kernel never comes back from one of them, nor gets to any other then
    """

    scenarios: set[str] = field(default_factory=set)
    places: set[int] = field(default_factory=set)
    kept: set[int] = field(default_factory=set)
    free: bool = False
    blocks: bool = False

    def takes(self, other: _Company) -> bool:
        """Return whether the kernel comes to all folios of both, and that of each for itself."""
        if self.blocks != other.blocks or (self.blocks and (self.free or other.free)):
            return False
        return self.kept.isdisjoint(other.places) and other.kept.isdisjoint(self.places)

    def add(self, other: _Company) -> None:
        self.scenarios |= other.scenarios
        self.places |= other.places
        self.kept |= other.kept
        self.free |= other.free


def _companies(folios: Iterable[Folio], path: str, place: Callable[[Folio], set[int]]) -> list[_Company]:
    """
    Return who may be alive at the same time.

    All do but those that have folios in a place in which others have one that is refused: the kernel gives it up at the
    first folio that it cannot have. Huge pages stay together, as they take each other's place in the pool.

    :param place: Where a folio is: what the kernel asks for at a time
    """
    by_scenario: dict[str, _Company] = {}
    for folio in folios:
        huge, refused = folio.said[path]["type"] == "hugetlb", _refused(folio, path)
        for name in folio.scenarios:
            mine = by_scenario.setdefault("hugetlb" if huge else name, _Company())
            mine.scenarios.add(name)
            mine.places |= place(folio)
            mine.kept |= place(folio) if refused else set()
            mine.free |= not refused
            mine.blocks |= folio.said[path]["duration"] == "will-block"
    huge_pages = [by_scenario.pop("hugetlb")] if "hugetlb" in by_scenario else []
    result: list[_Company] = []
    # Those that are refused nothing first: they all go together.
    for _, company in sorted(by_scenario.items(), key=lambda item: (bool(item[1].kept), item[0])):
        found = next((other for other in result if other.takes(company)), None)
        if found is None:
            result.append(company)
        else:
            found.add(company)
    return result + huge_pages


def _among(folios: Iterable[Folio], names: Collection[str]) -> list[Folio]:
    return [folio for folio in folios if set(folio.scenarios) <= set(names)]


def _contig(dump: Dump, heard: Said) -> Answers:
    """Ask virtio-mem for everything, with some scenarios alive at a time."""
    inside = [folio for folio in heard.folios if folio.pfn in dump.hotplug_pfns]
    result: Answers = {}
    sizes = {record["virtio_mem"]["sub_block_size"] for record in heard.blocks if record["virtio_mem"]}
    pages = max(sizes, default=PAGE_SIZE) // PAGE_SIZE

    def sub_blocks(folio: Folio) -> set[int]:
        return set(range(folio.frames.start // pages, (folio.frames.stop - 1) // pages + 1))

    for company in _companies(inside, "contig", sub_blocks):
        mine = _among(inside, company.scenarios)
        # What scenarios held that were ended is looked at, too: a write that never ends outlives its process.
        _, answers = questions.unplug(dump, inside, company.scenarios)
        # It takes one sub-block after another: where it sleeps, those behind are not asked for.
        blocked = any(told.answer is Answer.BLOCKED for told in answers.values())
        answers = _reached("contig", inside, answers, _anywhere if blocked else sub_blocks)
        result.update((folio.pfn, answers[folio.pfn]) for folio in mine)
    return result


def _cma_area(dump: Dump) -> range | None:
    """Return the page frames of hugetlb's CMA area, all of which make one huge page; None if this kernel has none."""
    frame = next((mark.pfn for mark in dump.marks if mark.scenario.startswith("cma_")), None)
    return None if frame is None else range(frame & -GIGANTIC_PAGES, (frame & -GIGANTIC_PAGES) + GIGANTIC_PAGES)


def _cma(dump: Dump, heard: Said, area: range) -> Answers:
    """Ask CMA for all of its area, with some scenarios alive at a time: it gives up at the first folio."""
    inside = [folio for folio in heard.folios if folio.pfn in area]
    result: Answers = {}
    for company in _companies(inside, "contig", _anywhere):
        mine = _among(inside, company.scenarios)
        answers = _reached("contig", mine, questions.cma(dump, mine, area, company.scenarios), _anywhere)
        result.update(answers)
    return result


def _anywhere(folio: Folio) -> set[int]:
    return {0}


def _reached(
    path: str, folios: list[Folio], answers: Answers, place: Callable[[Folio], set[int]], strangers: bool = False
) -> Answers:
    """
    Of folios that nothing was said against, and that stayed beside one that something was: there is no answer.

    :param strangers: Whether beside all of them there are folios of nobody's scenario that something was said against
    """
    left = [folio for folio in folios if answers[folio.pfn].answer not in VACATED]
    culprits = {spot for folio in left if _refused(folio, path) for spot in place(folio)}
    result = dict(answers)
    for folio in left:
        if not _refused(folio, path) and (strangers or not culprits.isdisjoint(place(folio))):
            result[folio.pfn] = replace(answers[folio.pfn], answer=Answer.NOT_REACHED)
    return result


def _verdict(said: Record) -> str:
    """Return the verdict on a block, with the errno where it is no, or may be no at first."""
    answer = (said["answer"] or "").partition(":")[0]
    if said["verdict"] == "no":
        return f"no {answer}"
    first = answer.removesuffix(" at first")
    return f"{said['verdict']}, no {first}" if first != answer else str(said["verdict"])


def _offline(dump: Dump, heard: Said) -> tuple[Answers, list[BlockRow], dict[int, Shown]]:
    """
    Offline each memory block, by itself; once more for what was not reached.

    :return: The answers by folio and by block, and what the kernel has named when it refused a block
    """
    said = {record["block"]: record["paths"]["offline"] for record in heard.blocks}
    result: Answers = {}
    blocks: list[BlockRow] = []
    named: dict[int, Shown] = {}
    for block in sorted(said):
        became, answers, unmovable = questions.offline(dump, heard.folios, block)
        mine = [folio for folio in heard.folios if folio.pfn in answers]
        asked = BlockRow(dump.scene.name, block, "offline", _verdict(said[block]), became)
        if became == "no -EBUSY" and not asked.agrees:
            # Who asks has just taken free memory, and that is in a batch of its CPU: in boot memory, that is refused.
            became, answers, unmovable = questions.offline(dump, heard.folios, block, tries=TRIES)
            asked = replace(asked, answer=became, again=True)
        blocks.append(asked)
        named.update(unmovable)
        strangers = said[block]["refused"] > sum(folio.said["offline"]["verdict"] == "refused" for folio in mine)
        reached = _reached("offline", mine, answers, _anywhere, strangers)
        result.update(reached)
        unanswered = [folio for folio in mine if reached[folio.pfn].answer is Answer.NOT_REACHED]
        if unanswered:
            names = frozenset(name for folio in unanswered for name in folio.scenarios)
            # What scenarios held that were ended is looked at, too, as above.
            _, again, _ = questions.offline(dump, mine, block, names)
            if again:  # or it gave up at once, this time
                again = _reached("offline", mine, again, _anywhere, strangers)
                result.update((folio.pfn, again[folio.pfn]) for folio in unanswered)
        if became.startswith("no ") and blocks[-1].agrees:
            result.update((pfn, _with_its_block(result[pfn])) for pfn in answers)
    return result, blocks, named


def _unmovable(heard: Said, named: Mapping[int, Shown]) -> Iterator[tuple[Folio, Told]]:
    """
    Yield the folios of nobody's scenario that the kernel has named, if they still were what they are in the dump.

    Where that is a free page, it is its pageblock that is refused.
    """
    for pfn, shown in sorted(named.items()):
        if any(pfn in folio.frames for folio in heard.folios):
            continue
        (folio,) = heard.of([pfn])
        said = folio.said["offline"]
        if said["type"] != "buddy" and shown == Shown(said["refcount"], "lru" in said["flags"]):
            yield folio, Told(Answer.REFUSED, "-EBUSY", "isolation")


def _with_its_block(told: Told) -> Told:
    """Return the answer of a folio in a block that the kernel would not have, as was said."""
    return replace(told, answer=Answer.BLOCK_REFUSED) if told.answer is Answer.NOT_REACHED else told
