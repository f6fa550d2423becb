# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What is said of a folio is what the kernel does with it: a part of ``python -m tests.vm.truth``, which asks everything.
"""

from __future__ import annotations

import pytest

from drgn_thp.gates import find_reason

from .dumps import ensure_dump
from .matrix import KERNELS, Kernel, kernel
from .scenes import LAB, SCENES
from .truth import questions, said
from .truth.answers import Answer
from .truth.judge import Outcome
from .truth.run import ask

pytestmark = pytest.mark.vm

# Each kernel once, and each kind of trouble.
PART = (("5.10", "lab"), ("6.1", "files"), ("6.1", "boot"), ("6.12", "pins"), ("7.3", "huge"))


@pytest.mark.parametrize(("name", "scene"), PART)
def test_the_kernel_does_what_was_said(name: str, scene: str) -> None:
    """Every folio on every path; and every memory block."""
    result = ask(ensure_dump(kernel(name), scene=next(s for s in SCENES if s.name == scene)))
    wrong = [
        (row.path, row.folio.scenarios, row.said, row.told) for row in result.rows if row.outcome is Outcome.DISAGREES
    ]
    assert not result.failure
    assert not wrong
    assert all(block.agrees for block in result.blocks), result.blocks
    agreed = {row.path for row in result.rows if row.outcome is Outcome.AGREES}
    assert agreed >= {"offline", "mbind", "mbind-move-all"}
    assert "contig" in agreed or scene == "boot"  # where nothing is in memory of virtio-mem
    confirmed = {row.path for row in result.rows if row.confirmed}
    # What these are refused on is the kernel's to find while it offlines a block, and it names some of it.
    assert confirmed >= ({"mbind", "offline"} if scene in ("lab", "pins", "huge") else {"mbind"})


@pytest.mark.parametrize("entry", KERNELS, ids=lambda entry: entry.name)
def test_copied_on_write_thp(entry: Kernel) -> None:
    """
    The report that this project comes from: virtio-mem cannot unplug the memory of a copied-on-write THP.

    Said before it is tried, with the fix; and not said of a kernel that has it.
    """
    dump = ensure_dump(entry, scene=LAB)
    folios = [f for f in said.read(dump).folios if "thp_cow" in f.scenarios]
    thp = next(f for f in folios if f.order == 9)
    left, answers = questions.unplug(dump, folios, ["thp_cow"])
    record = thp.said["contig"]
    if entry.name == "5.10":
        assert (record["reason"], record["wrongly_refused"], record["extra"]) == ("racy-pin-check", True, 0)
        assert "829ae0f81ce0" in find_reason(record["reason"]).meaning + find_reason(record["reason"]).advice
        assert answers[thp.pfn].answer is Answer.REFUSED
        assert left == 4 << 20  # the sub-block that this kernel asks for at a time
    else:
        assert record["verdict"] == "ok"
        assert answers[thp.pfn].answer is Answer.MOVED
        assert left == 0
