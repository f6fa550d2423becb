# SPDX-License-Identifier: LGPL-2.1-or-later
"""What virtio-mem makes of obstacles, block by block: its order, and the two answers that it tells apart."""

from __future__ import annotations

import dataclasses

import numpy

from drgn_thp.census import Obstacles
from drgn_thp.gates import Gate, find_path
from drgn_thp.kernel import Kernel
from drgn_thp.unplug import Prediction, Tried, predict, predict_all
from drgn_thp.virtio_mem import Device

KERNEL = Kernel()
GATES = find_path("contig").of(KERNEL).gates
MIB = 1 << 20
BLOCK = Device(
    0, 8 * MIB, "driver", 2 * MIB, 8 * MIB, 8 * MIB, "sub-block", states=("movable",), plugged_bits=(True,) * 4
)
SUB_BLOCK_PAGES = 512


def gate(reason: str, stage: str) -> int:
    """Return the number of a gate."""
    return next(i for i, gate in enumerate(GATES) if (gate.reason.name, gate.stage) == (reason, stage))


PASSED_OVER = gate("extra-reference", "passed-over")
STOPS = gate("extra-reference", "migration")
NO_MEMORY = gate("hugetlb-no-target", "out-of-memory")
UNMOVABLE = gate("slab", "isolation")
WAITS = gate("writeback", "migration")


def obstacles(*found: tuple[int, int, int]) -> Obstacles:
    """Return obstacles, each a page frame, pages, and a gate."""
    columns = numpy.array(found, numpy.int64).reshape(-1, 3).T
    return Obstacles(*columns)


def unplugged(device: Device, *found: tuple[int, int, int], online: bool = True) -> Prediction:
    """Return what becomes of a block of four sub-blocks."""
    return predict(device, 0, 2048, 12, online, obstacles(*found), GATES, "")


def word(prediction: Prediction) -> tuple[str, str, str]:
    return prediction.map, prediction.verdict, prediction.answer


def test_sub_blocks_are_kept_by_what_lies_in_them() -> None:
    """A folio keeps every sub-block that it reaches into, and no other."""
    assert word(unplugged(BLOCK)) == ("----", "yes", "")
    found = unplugged(BLOCK, (5, 1, PASSED_OVER), (1024, 1024, STOPS))
    assert word(found) == ("x-xx", "part", "-EBUSY")
    assert [(keeper.sub_block, keeper.folios) for keeper in found.keepers] == [(0, [5]), (2, [1024]), (3, [1024])]
    assert unplugged(BLOCK, (5, 1, WAITS)).verdict == "blocks"


def test_out_of_memory_ends_it_unless_something_busy_comes_first() -> None:
    """The whole block is tried first; only -EBUSY leads to its sub-blocks, from the last to the first."""
    assert word(unplugged(BLOCK, (512, 512, NO_MEMORY))) == ("otoo", "later", "-ENOMEM: the request is given up")
    assert word(unplugged(BLOCK, (5, 1, PASSED_OVER), (512, 512, NO_MEMORY))) == (
        "xtoo",
        "no",
        "-ENOMEM: the request is given up",
    )
    found = unplugged(BLOCK, (5, 1, STOPS), (512, 512, NO_MEMORY))
    assert word(found) == ("xt--", "part", "-ENOMEM: the request is given up")
    found = unplugged(BLOCK, (512, 512, NO_MEMORY), (1600, 1, UNMOVABLE))
    assert word(found) == ("ot-x", "part", "-ENOMEM: the request is given up")


def test_a_block_that_is_partly_plugged_is_never_tried_whole() -> None:
    partly = dataclasses.replace(BLOCK, states=("movable-partial",), plugged_bits=(True, True, False, True))
    assert word(unplugged(partly, (512, 512, NO_MEMORY))) == ("ot.-", "part", "-ENOMEM: the request is given up")
    nothing = dataclasses.replace(BLOCK, plugged_bits=(False,) * 4)
    assert word(unplugged(nothing))[:2] == ("....", "offline")


def test_what_is_offline_goes_and_what_may_not_be_tried_stays() -> None:
    assert word(unplugged(BLOCK, (5, 1, STOPS), online=False)) == ("----", "yes", "")
    told_not_to = dataclasses.replace(BLOCK, unplug_online=False)
    assert word(unplugged(told_not_to)) == ("oooo", "no", "virtio_mem.unplug_online is off")


def test_big_blocks_go_whole_or_not_at_all() -> None:
    big = Device(0, 8 * MIB, "driver", 8 * MIB, 8 * MIB, 8 * MIB, "big-block", states=("added",))
    assert word(unplugged(big)) == ("-", "yes", "")
    assert word(unplugged(big, (5, 1, STOPS))) == ("x", "no", "-EBUSY")


def tried(start: int, hugetlb_free: int = 0, hugetlb_used: int = 0, rank: int = 0) -> Tried:
    prediction = unplugged(BLOCK)
    prediction.unit = BLOCK.unit
    return Tried(rank, start, start // (8 * MIB), prediction, hugetlb_used, hugetlb_free)


def test_huge_pages_need_room_in_the_end() -> None:
    """What takes the place of a huge page has to be on its node, of which nothing is left after the last block."""
    both = [tried(0, hugetlb_free=2 * MIB), tried(8 * MIB)]
    assert predict_all(both, KERNEL, other_memory=True).gives_up_at is None
    outcome = predict_all(both, KERNEL, other_memory=False)
    assert (outcome.at_least, outcome.at_most, outcome.gives_up_at) == (8 * MIB, 8 * MIB, 0)
    older = dataclasses.replace(KERNEL, contig_replaces_free_hugetlb=False)
    outcome = predict_all(both, older, other_memory=False)
    assert (outcome.at_least, outcome.at_most, outcome.gives_up_at) == (8 * MIB, 14 * MIB, 0)
    oldest = dataclasses.replace(older, contig_migrates_hugetlb=False)
    assert predict_all(both, oldest, other_memory=False).gives_up_at is None
    # The last block is tried first, unless ranks say otherwise.
    assert predict_all([tried(0), tried(8 * MIB, hugetlb_free=2 * MIB)], KERNEL, False).gives_up_at is None
    assert predict_all([tried(0), tried(8 * MIB, 2 * MIB, rank=1)], KERNEL, False).gives_up_at == 1


def test_every_gate_has_a_stage() -> None:
    """Stages are told by the name of the function that refuses: a name that nobody knows would pass for migration."""
    stages: dict[str, set[str]] = {}
    for entry in GATES:
        assert isinstance(entry, Gate)
        stages.setdefault(entry.stage, set()).add(entry.kernel.partition("(")[0])
    assert set(stages) == {"isolation", "passed-over", "out-of-memory", "migration"}
    assert not {name for name in stages["migration"] if name.startswith(("isolate_", "test_", "has_", "set_"))}
