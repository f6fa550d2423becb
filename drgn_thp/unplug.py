# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What virtio-mem could unplug of its memory: each memory block as virtio_mem_sbm_unplug_any_sb_online() would try it.

A block of which all is plugged is first tried whole. Only if that is answered with -EBUSY are its sub-blocks tried one
by one, from the last to the first, and those that are busy skipped. -ENOMEM, which a hugetlb folio that nothing can
take the place of gives, ends the whole request: neither the rest of the block nor any other block is tried.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

import numpy

from .census import Obstacles
from .gates import Duration, Gate
from .kernel import Kernel
from .verdicts import BLOCKS, LATER, NO, OFFLINE, UNKNOWN, YES
from .virtio_mem import BIG_BLOCK, Device

PART = "part"
MAX_FOLIOS = 8
"""So many folios are named for each sub-block that is kept; more are only counted."""


class Fate(Enum):
    """What becomes of one sub-block; the value stands for it in the map of a block."""

    UNPLUGGED = "."
    GOES = "-"
    KEPT = "x"
    KEPT_FOR_NOW = "t"
    """Only by what ends by itself."""
    BLOCKS = "w"
    """The kernel waits, perhaps for ever."""
    NOT_TRIED = "o"
    """Nothing holds it, but virtio-mem gives up before: out of memory, or it is told not to try."""
    UNKNOWN = "?"


@dataclass(frozen=True)
class Keeper:
    """What keeps one sub-block: number, reasons and the first few folios."""

    sub_block: int
    reasons: dict[str, int]
    folios: list[int]


@dataclass
class Prediction:
    """What becomes of the part of a memory block that belongs to a device."""

    verdict: str
    answer: str
    fates: list[Fate] = field(default_factory=list)
    keepers: list[Keeper] = field(default_factory=list)
    out_of_memory: bool = False
    unit: int = 0
    """Bytes of a sub-block."""

    def count(self, *fates: Fate) -> int:
        return sum(fate in fates for fate in self.fates)

    @property
    def unpluggable(self) -> int:
        """Bytes that can go."""
        return self.count(Fate.GOES) * self.unit

    @property
    def map(self) -> str:
        return "".join(fate.value for fate in self.fates)


def _attempt(obstacles: Obstacles, gates: Sequence[Gate]) -> str:
    """
    Return what alloc_contig_range() answers on a range with these obstacles: "" if it succeeds.

    The isolation is tested before anything is migrated. Then folios are taken in ascending order, some at a time: what
    cannot be isolated is passed over and found at the end, but migration stops at the first that it cannot move.
    """
    if not len(obstacles.pfn):
        return ""
    stages = [gates[index].stage for index in obstacles.gate.tolist()]
    if "isolation" in stages:
        return "-EBUSY"
    first = next((stage for stage in stages if stage != "passed-over"), "")
    return "-ENOMEM" if first == "out-of-memory" else "-EBUSY"


def _within(obstacles: Obstacles, start_pfn: int, end_pfn: int) -> Obstacles:
    inside = numpy.flatnonzero((obstacles.pfn < end_pfn) & (obstacles.pfn + obstacles.pages > start_pfn))
    return Obstacles(obstacles.pfn[inside], obstacles.pages[inside], obstacles.gate[inside])


def _fate(obstacles: Obstacles, gates: Sequence[Gate]) -> Fate:
    durations = {gates[index].duration for index in obstacles.gate.tolist()}
    if not durations:
        return Fate.GOES
    if Duration.PERMANENT in durations or Duration.ENDLESS in durations:
        return Fate.KEPT
    return Fate.BLOCKS if Duration.WILL_BLOCK in durations else Fate.KEPT_FOR_NOW


def predict(
    device: Device,
    start_pfn: int,
    end_pfn: int,
    page_shift: int,
    online: bool,
    obstacles: Obstacles | None,
    gates: Sequence[Gate],
    unread: str,
) -> Prediction:
    """
    Return what virtio-mem could unplug of a memory block, were it asked for all of it now.

    :param obstacles: What alloc_contig_range() refuses there; None if that was not asked
    :param gates: Those of that path, which the obstacles have indices of
    :param unread: What of the block cannot be read that may refuse, in words
    """
    start, size = start_pfn << page_shift, (end_pfn - start_pfn) << page_shift
    unit = device.unit >> page_shift
    plugged = device.plugged(start, size)
    if not any(plugged):
        return Prediction(OFFLINE, "nothing of it is plugged", [Fate.UNPLUGGED] * len(plugged))
    if not online:
        return _all(plugged, Fate.GOES, YES, "")
    if device.unplug_online is False:
        return _all(plugged, Fate.NOT_TRIED, NO, "virtio_mem.unplug_online is off")
    if obstacles is None:
        return _all(plugged, Fate.UNKNOWN, UNKNOWN, "the path contig was not asked for")
    if device.mode == BIG_BLOCK:
        return _big_block(plugged, start_pfn, end_pfn, obstacles, gates, unread)
    fates, keepers = [], []
    for number, is_plugged in enumerate(plugged):
        first = start_pfn + number * unit
        inside = _within(obstacles, first, first + unit)
        fates.append(_fate(inside, gates) if is_plugged else Fate.UNPLUGGED)
        if is_plugged and len(inside.pfn):
            keepers.append(_keeper(number, inside, gates))
    gave_up = _run(plugged, fates, start_pfn, end_pfn, unit, obstacles, gates)
    prediction = Prediction(YES, "", fates, keepers, gave_up)
    prediction.verdict = _verdict(prediction)
    if gave_up:
        prediction.answer = "-ENOMEM: the request is given up"
    elif prediction.verdict in (NO, PART, LATER):
        prediction.answer = "-EBUSY"
    if unread and prediction.verdict != NO:
        prediction.verdict, prediction.answer = UNKNOWN, unread
    return prediction


@dataclass(frozen=True)
class Tried:
    """A memory block of a device, for :func:`predict_all`."""

    rank: int
    start: int
    number: int | None
    prediction: Prediction
    hugetlb_used: int
    hugetlb_free: int
    """Bytes of hugetlb folios."""


@dataclass(frozen=True)
class Outcome:
    """
    What becomes of a request to unplug all of some memory blocks: bytes, and where it is given up.

    Less than ``at_most`` goes if hugetlb folios, which move out of the way, find no room on their node in the end.
    """

    at_least: int
    at_most: int
    gives_up_at: int | None


def predict_all(blocks: Sequence[Tried], kernel: Kernel, other_memory: bool) -> Outcome:
    """
    Go through the blocks of a device in the order of virtio_mem_sbm_unplug_request().

    Hugetlb folios are moved to, or replaced by, others of the same node. When all other memory of that is gone, none is
    left: alloc_contig_range() answers -ENOMEM, and virtio-mem leaves it at that.

    :param other_memory: Whether the node of the device has memory that is not of these blocks
    """
    ordered = sorted(blocks, key=lambda block: (block.rank, -block.start))
    at_least = at_most = 0
    stays = other_memory
    for position, block in enumerate(ordered):
        found = block.prediction
        room = stays or position + 1 < len(ordered)
        huge = block.hugetlb_used + block.hugetlb_free
        if found.out_of_memory:
            return Outcome(at_least, at_most + found.unpluggable, block.number)
        if not room and huge and kernel.contig_migrates_hugetlb and found.unpluggable:
            whole = not found.count(Fate.UNPLUGGED)
            if whole and block.hugetlb_free and kernel.contig_replaces_free_hugetlb:
                return Outcome(at_least, at_most, block.number)
            # Those that are refused stay in sub-blocks that are counted as kept.
            return Outcome(at_least, at_most + max(found.unpluggable - found.unit, 0), block.number)
        at_least += found.unpluggable
        at_most += found.unpluggable
    return Outcome(at_least, at_most, None)


def _run(
    plugged: Sequence[bool],
    fates: list[Fate],
    start_pfn: int,
    end_pfn: int,
    unit: int,
    obstacles: Obstacles,
    gates: Sequence[Gate],
) -> bool:
    """Go through the block as virtio-mem does, and return whether it gives up; what it does not get to is not tried."""
    whole = _within(obstacles, start_pfn, end_pfn)
    given_up = all(plugged) and _attempt(whole, gates) == "-ENOMEM"
    result = given_up
    for number in range(len(plugged) - 1, -1, -1):
        if not given_up and plugged[number]:
            first = start_pfn + number * unit
            given_up = result = _attempt(_within(obstacles, first, first + unit), gates) == "-ENOMEM"
        elif given_up and fates[number] == Fate.GOES:
            fates[number] = Fate.NOT_TRIED
    return result


def _verdict(prediction: Prediction) -> str:
    if prediction.count(Fate.BLOCKS) and not prediction.out_of_memory:
        return BLOCKS
    if not prediction.count(Fate.KEPT, Fate.KEPT_FOR_NOW, Fate.NOT_TRIED, Fate.BLOCKS):
        return YES
    if prediction.count(Fate.GOES):
        return PART
    return NO if prediction.count(Fate.KEPT) else LATER


def _all(plugged: Sequence[bool], fate: Fate, verdict: str, answer: str) -> Prediction:
    return Prediction(verdict, answer, [fate if one else Fate.UNPLUGGED for one in plugged])


def _big_block(
    plugged: Sequence[bool], start_pfn: int, end_pfn: int, obstacles: Obstacles, gates: Sequence[Gate], unread: str
) -> Prediction:
    """All or nothing; what other memory blocks of the same big block hold is not asked here."""
    inside = _within(obstacles, start_pfn, end_pfn)
    fate = _fate(inside, gates)
    verdict = {Fate.GOES: YES, Fate.KEPT: NO, Fate.BLOCKS: BLOCKS}.get(fate, LATER)
    answer = _attempt(inside, gates)
    result = _all(plugged, fate, UNKNOWN if unread and verdict != NO else verdict, answer or unread)
    result.out_of_memory = answer == "-ENOMEM"
    if len(inside.pfn):
        result.keepers.append(_keeper(0, inside, gates))
    return result


def _keeper(number: int, obstacles: Obstacles, gates: Sequence[Gate]) -> Keeper:
    reasons: dict[str, int] = {}
    for index in obstacles.gate.tolist():
        name = gates[index].reason.name
        reasons[name] = reasons.get(name, 0) + 1
    return Keeper(number, dict(sorted(reasons.items())), obstacles.pfn[:MAX_FOLIOS].tolist())
