# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The ways of asking a kernel to give memory back. Each question is put to a guest that was rewound to the dump.

A question returns what became of each folio that it is about, by the page frame of its head.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from tests.vm.dumps import Dump, Mark
from tests.vm.rewind import Rewound

from .answers import Answer, Told
from .log import Shown, dumped, have_it_tell, stages_told
from .patience import Patience
from .said import Folio

Answers = dict[int, Told]

MOVE, MOVE_ALL = 2, 4
# Seconds after which a call is taken not to return: many times what any takes that does.
CALL_SECONDS = 4
# How long a guest may run, and may rest, without anything to show for it: see Patience.
OFFLINE_RUNS, OFFLINE_RESTS = 2.0, 1.2
DRIVER_RUNS, DRIVER_RESTS = 10.0, 0.8
STUCK_RUNS, STUCK_RESTS = 6.0, 2.0
CMA_RUNS = 60.0
LOOK_SECONDS = 0.2
PAGES_PER_BLOCK = 0x8000
# Twice of which there is room for all that the workload has.
FRAGMENTED_MIB = 128
SPARE_MIB = 128
BALLAST_MIB = 16
DEVICE = "/machine/peripheral/vmem"
# Bits of /proc/kpageflags.
COMPOUND = 1 << 15 | 1 << 16
HUGE, HWPOISON = 1 << 17, 1 << 19
GIGANTIC_POOL = "/sys/devices/system/node/node0/hugepages/hugepages-1048576kB/nr_hugepages"
STUCK = "does not return"
SOFT_OFFLINE = "/sys/devices/system/memory/soft_offline_page"


def _asked(folio: Folio) -> Mark | None:
    """Return the first page of a folio that some process maps: the mark to name it by."""
    return next((mark for mark in sorted(folio.marks, key=lambda m: m.pfn) if mark.vaddr), None)


def move(dump: Dump, folios: Iterable[Folio], flags: int) -> Answers:
    """move_pages(2), to the other node, one folio at a time."""
    marks = {mark.slot: folio for folio in folios if (mark := _asked(folio))}
    result: Answers = {}
    with Rewound(dump) as guest:
        pending = list(marks)
        while pending:  # a line of a terminal is not endless
            some, pending = pending[:200], pending[200:]
            command = f"move {flags} {CALL_SECONDS} {' '.join(map(str, some))}"
            for _, slot, *words in guest.ask(command, timeout=30 + CALL_SECONDS * 2 * len(some)):
                told = _moved(words)
                if told:
                    result[marks[int(slot)].pfn] = told
    return result


def _moved(words: list[str]) -> Told | None:
    if len(words) == 1:
        return Told(Answer(words[0]), STUCK)
    result, error, status = (int(word) for word in words[:3])
    before, after = (int(word, 0) for word in words[3:])
    if not before:
        return None  # what another question moved aside: not mapped any more
    if before != after:
        return Told(Answer.MOVED if after else Answer.RECLAIMED)
    if error:
        return Told(Answer.REFUSED, f"errno {error}")
    if status == -errno.EBUSY:
        return Told(Answer.NOT_ISOLATED, "-EBUSY", "isolation")
    if status in (-errno.EACCES, -errno.EFAULT):
        return Told(Answer.REFUSED, f"-{errno.errorcode[-status]}", "isolation")
    return Told(Answer.REFUSED, f"returns {result}", "migration")


def _used(guest: Rewound, frames: range, but: int = 0) -> set[int]:
    """Return those that are in use, other than by pages with any of some flags."""
    used: set[int] = set()
    for _, first, pages, flags in guest.ask(f"used {frames.start} {frames.stop}"):
        if not int(flags, 0) & but:
            used.update(range(int(first, 0), int(first, 0) + int(pages)))
    return used


class Offlined(NamedTuple):
    """What became of a memory block (as in :mod:`drgn_thp.verdicts`, or an errno), and of its folios."""

    became: str
    answers: Answers
    named: Mapping[int, Shown] = MappingProxyType({})
    """The pages for which the kernel would not have the block, where it says so: what they were then."""


def offline(
    dump: Dump, folios: list[Folio], block: int, alive: Iterable[str] | None = None, tries: int = 1
) -> Offlined:
    """
    Write "offline" to a memory block's state.

    :param alive: Only these scenarios are still there; all if None
    :param tries: How often the same guest is asked as long as it says -EBUSY, again with nothing in batches of CPUs
    """
    frames = range(block * PAGES_PER_BLOCK, (block + 1) * PAGES_PER_BLOCK)
    inside = [folio for folio in folios if folio.pfn in frames]
    with Rewound(dump) as guest:
        if alive is not None:
            _keep(guest, alive)
        have_it_tell(guest)
        path = f"/sys/devices/system/memory/memory{block}/state"
        [[_, word]] = guest.ask(f"write 1 {path} offline")
        while tries > 1 and word == str(errno.EBUSY):
            [[_, word]] = guest.ask(f"drained 1 {path} offline")
            tries -= 1
        patience = Patience(guest.guest, OFFLINE_RUNS, OFFLINE_RESTS)
        fewest = len(frames) + 1
        while word == "running":
            fewest = min(fewest, len(_used(guest, frames)))
            if patience.over(fewest):
                break
            [[_, word]] = guest.ask("wait 1")
        if word == "running":
            used = _used(guest, frames)
            [[_, word]] = guest.ask("kill")
            left = Told(Answer(word), word)
            word = {"blocked": "blocks"}.get(word, word)
        elif word == "0":
            used, left = _used(guest, frames), Told(Answer.REFUSED, "left behind")
            word = "yes"
        else:
            error = f"-{errno.errorcode[int(word)]}"
            named = dumped(guest.guest.serial(), "unmovable page")
            return Offlined(f"no {error}", {folio.pfn: _given_up(folio, error, named) for folio in inside}, named)
        stages = stages_told(guest.guest.serial())
    result: Answers = {}
    for folio in inside:
        if used.isdisjoint(folio.frames):
            result[folio.pfn] = Told(Answer.MOVED)
        else:
            stage = next((stages[pfn] for pfn in folio.frames if pfn in stages), "")
            result[folio.pfn] = Told(left.answer, left.word, stage)
    return Offlined(word, result)


def _given_up(folio: Folio, error: str, named: Collection[int]) -> Told:
    """
    Return what a folio was told when offlining gave up: some are looked for before it begins, others at its end.

    :param named: The page frames that the kernel has named as unmovable
    """
    if any(pfn in folio.frames for pfn in named):
        return Told(Answer.REFUSED, error, "isolation")
    check = folio.said["offline"]["check"] or ""
    if check.startswith(("has_unmovable_pages", "dissolve_free_hugetlb_folios")) and check.endswith(error):
        return Told(Answer.REFUSED, error)
    return Told(Answer.NOT_REACHED, error)


def unplug(dump: Dump, folios: list[Folio], alive: Iterable[str] | None = None) -> tuple[int, Answers]:
    """
    Let virtio-mem take everything back.

    :param alive: Only these scenarios are still there; all if None
    :return: How many bytes stay plugged, and what became of the folios
    """
    frames = range(dump.hotplug_pfns.start, dump.hotplug_pfns.stop)
    inside = [folio for folio in folios if folio.pfn in frames]
    with Rewound(dump) as guest:
        if alive is not None:
            _keep(guest, alive)
        qmp = guest.guest.qmp
        _add_spare_memory(guest)
        have_it_tell(guest)
        qmp("qom-set", path=DEVICE, property="requested-size", value=0)
        size = _settled(guest)
        named = dumped(guest.guest.serial(), "migration failure")
        used, moved = _used(guest, frames), _mapped_elsewhere(guest, inside)
        stuck = bool(used) and _stuck(guest, size, len(frames) << 12)
    moved |= {folio.pfn for folio in inside if used.isdisjoint(folio.frames)}
    left = Answer.BLOCKED if stuck else Answer.REFUSED
    return size, {
        folio.pfn: Told(Answer.MOVED) if folio.pfn in moved else _left(folio, left, named) for folio in inside
    }


def _left(folio: Folio, answer: Answer, named: Collection[int]) -> Told:
    """Return what a folio was told that alloc_contig_range() left where it was, or failed to migrate if it is named."""
    return Told(answer, "migration failure", "migration") if any(p in folio.frames for p in named) else Told(answer)


def _mapped_elsewhere(guest: Rewound, folios: Iterable[Folio]) -> set[int]:
    """
    Return which folios were moved, as a process that maps them sees: their frames may be another one's by now.

    Where they are a huge page that nobody maps, it is the same one, free, and its memory was not given back.
    """
    now = {int(slot): [int(word, 0) for word in words] for _, slot, *words in guest.ask("pages")}
    result = set()
    for folio in folios:
        mark = _asked(folio)
        if mark:
            pfn, flags, mappings = now[mark.slot]
            if pfn and pfn not in folio.frames and (mappings or not flags & HUGE):
                result.add(folio.pfn)
    return result


def _keep(guest: Rewound, alive: Iterable[str]) -> None:
    """End all other scenarios. Free huge pages are nobody's: they go, unless they are among what is kept."""
    names = sorted(alive)
    guest.ask("alone " + " ".join(names))
    # v6.1 waits for ever, at full speed, where nearly all of a node's pages are isolated at once: too_many_isolated().
    guest.ask(f"fragment {BALLAST_MIB}")
    if not any("hugetlb" in name for name in names):
        for node in (0, 1):
            guest.ask(f"write 5 /sys/devices/system/node/node{node}/hugepages/hugepages-2048kB/nr_hugepages 0")


def _add_spare_memory(guest: Rewound) -> None:
    """
    Give the node memory that is not virtio-mem's.

    While it gives back all that its node has, what has to stay on the node (huge pages) soon has nowhere to go. That is
    not what is asked here.
    """
    qmp = guest.guest.qmp
    qmp("object-add", **{"qom-type": "memory-backend-ram", "id": "spare", "size": SPARE_MIB << 20})
    qmp("device_add", driver="pc-dimm", id="dimm", memdev="spare", node=1)
    deadline = time.monotonic() + CALL_SECONDS * 5
    while not any(dimm["data"]["id"] == "dimm" for dimm in qmp("query-memory-devices")):
        assert time.monotonic() < deadline
    block = next(dimm["data"]["addr"] for dimm in qmp("query-memory-devices") if dimm["data"]["id"] == "dimm") >> 27
    # The kernel onlines it by itself; after that, it will not hear of it.
    while guest.ask(f"write 5 /sys/devices/system/memory/memory{block}/state online") != [["W", str(errno.EINVAL)]]:
        assert time.monotonic() < deadline, "the memory that was added did not come online"
        time.sleep(0.05)


def _settled(guest: Rewound) -> int:
    """
    Wait until the driver has given up or is done, and return how much is still plugged.

    When nothing is plugged any more it is not done: it still removes the last block's struct pages, and the kernel
    crashes when it is asked for their flags meanwhile (seen once).
    """
    # Its next try would be after 50 s. Where it is stuck at full speed, it never rests.
    patience = Patience(guest.guest, DRIVER_RUNS, DRIVER_RESTS)
    while True:
        time.sleep(LOOK_SECONDS)
        size = int(guest.guest.qmp("qom-get", path=DEVICE, property="size"))
        if patience.over(size):
            return size


def _stuck(guest: Rewound, size: int, most: int) -> bool:
    """Return whether the driver sleeps: then it does not give us the memory that it could give now either."""
    qmp = guest.guest.qmp
    whole = int(qmp("qom-get", path=DEVICE, property="requested-size"))
    assert whole == 0
    more = (size + (128 << 20)) & -(128 << 20)
    if more > most:
        return False  # it gave nothing back, and cannot be offered more
    qmp("qom-set", path=DEVICE, property="requested-size", value=more)
    patience = Patience(guest.guest, STUCK_RUNS, STUCK_RESTS)
    while not patience.over(size):
        time.sleep(LOOK_SECONDS)
        if int(qmp("qom-get", path=DEVICE, property="size")) != size:
            return False
    return True


def cma(dump: Dump, folios: list[Folio], area: range, alive: Iterable[str]) -> Answers:
    """
    Let hugetlb make one huge page of its CMA area.

    :param alive: Only these scenarios are still there
    """
    inside = [folio for folio in folios if folio.pfn in area]
    with Rewound(dump) as guest:
        _keep(guest, alive)
        have_it_tell(guest)
        [[_, word]] = guest.ask(f"write 1 {GIGANTIC_POOL} 1")
        patience = Patience(guest.guest, CMA_RUNS, STUCK_RESTS)
        while word == "running" and not patience.over(word):
            [[_, word]] = guest.ask("wait 1")
        if word != "0":
            raise AssertionError(f"{GIGANTIC_POOL}: {word}")
        # Looked at while the page is there: what is given back is somebody's again at once.
        used = _used(guest, area, but=HUGE)
        named = dumped(guest.guest.serial(), "migration failure")
    return {
        folio.pfn: Told(Answer.MOVED) if used.isdisjoint(folio.frames) else _left(folio, Answer.REFUSED, named)
        for folio in inside
    }


def split(dump: Dump, folios: list[Folio]) -> Answers:
    """Write 1 to debugfs' split_huge_pages: all huge pages of the machine."""
    # The guest does not know where pages are that were found by their content, and cannot look at them.
    large = [folio for folio in folios if folio.order and not any(m.note.startswith("sig=") for m in folio.marks)]
    if not large:
        return {}
    with Rewound(dump) as guest:
        [[_, word]] = guest.ask("write 60 /sys/kernel/debug/split_huge_pages 1")
        if word != "0":
            raise AssertionError(f"split_huge_pages: {word}")
        lines = guest.ask("pages")
    flags = {int(slot): int(word, 0) for _, slot, _, word, _ in lines}
    return {folio.pfn: _split(folio, flags) for folio in large}


def _split(folio: Folio, flags: dict[int, int]) -> Told:
    whole = any(flags[mark.slot] & COMPOUND for mark in folio.marks)
    return Told(Answer.NOT_SPLIT if whole else Answer.SPLIT)


def compact(dump: Dump, folios: list[Folio]) -> Answers:
    """
    Write 1 to /proc/sys/vm/compact_memory: all zones, by compaction that waits.

    It moves what it finds room for and gives up for many reasons, so that only moving says something of a folio.
    """
    inside = [folio for folio in folios if folio.pfn in dump.hotplug_pfns]
    with Rewound(dump) as guest:
        guest.ask(f"fragment {FRAGMENTED_MIB}")
        [[_, word]] = guest.ask(f"write {CALL_SECONDS * 3} /proc/sys/vm/compact_memory 1")
        used = _used(guest, dump.hotplug_pfns)
    return {
        folio.pfn: Told(Answer.MOVED if used.isdisjoint(folio.frames) else Answer.NOT_REACHED, word) for folio in inside
    }


def soft_offline(dump: Dump, folios: list[Folio]) -> Answers | None:
    """
    Write the address of one page of each folio to soft_offline_page: it is to be moved away, and never used again.

    :return: None where the kernel does not handle broken memory
    """
    # Broken ones are there already, and what a driver took away was never the kernel's. For one of 1 GiB, it looks for
    # another for longer than anybody waits.
    pending = [
        folio
        for folio in folios
        if not {"hwpoison", "offline"} & _kinds(folio) and len(folio.frames) <= PAGES_PER_BLOCK
    ]
    result: Answers = {}
    while pending:
        with Rewound(dump) as guest:
            while pending:
                folio = pending.pop(0)
                told = _soft_offline(guest, folio.marks[0].pfn)
                if told is None:
                    return None
                result[folio.pfn] = told
                # It waits for ever with a lock held that all others need.
                if told.word == STUCK:
                    pending = [other for other in pending if set(other.scenarios).isdisjoint(folio.scenarios)]
                    break
    # Huge pages take each other's place.
    for folio in folios:
        told = result.get(folio.pfn)
        if told and told.answer is Answer.REFUSED and folio.said["offline"]["verdict"] == "ok":
            with Rewound(dump) as guest:
                result[folio.pfn] = _soft_offline(guest, folio.marks[0].pfn) or told
    return result


def _kinds(folio: Folio) -> set[str]:
    said = folio.said["offline"]
    return {said["type"], *said["flags"]}


def _soft_offline(guest: Rewound, pfn: int) -> Told | None:
    [[_, word]] = guest.ask(f"write {CALL_SECONDS} {SOFT_OFFLINE} {pfn << 12:#x}")
    if word == str(errno.ENOENT):
        return None
    if word == "running":
        [[_, word]] = guest.ask("kill")
        return Told(Answer(word), STUCK)
    if word != "0":
        return Told(Answer.REFUSED, f"-{errno.errorcode[int(word)]}")
    used = [int(flags, 0) for *_, flags in guest.ask(f"used {pfn} {pfn + 1}")]
    return Told(Answer.REFUSED, "still used") if used and not used[0] & HWPOISON else Told(Answer.MOVED)
