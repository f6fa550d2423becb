# SPDX-License-Identifier: LGPL-2.1-or-later
"""What becomes of a memory block, from the reasons counted in it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy
import pytest

from drgn_thp.census import BlockCensus, PathCensus
from drgn_thp.describe import Describer
from drgn_thp.folios import Folios
from drgn_thp.gates import Duration, Gate, Path, Reason, Verdicts, reasons
from drgn_thp.verdicts import block_verdict, duration, without

CONTEXT: Any = SimpleNamespace(
    kernel=SimpleNamespace(isolation_migrates_straddlers=False),
    resources=SimpleNamespace(covers=lambda start, end: True),
    doubts=SimpleNamespace(unreadable_pageblocks=()),
)
BLOCK: Any = SimpleNamespace(start_pfn=0, end_pfn=0x8000, single_zone=True, online=True, pages=0x8000)


@pytest.mark.parametrize(
    ("durations", "reasons", "said"),
    [
        ({}, {}, ("yes", "")),
        ({"transient": 1}, {"lru-batch": 1}, ("later", "")),
        ({"transient": 1}, {"hugetlb-busy": 1}, ("later", "-EBUSY")),
        ({"endless": 1}, {"extra-reference": 1}, ("endless", "")),
        ({"endless": 1, "transient": 1}, {"extra-reference": 1, "isolated": 1}, ("endless", "")),
        # It is refused before it begins to try for ever.
        ({"endless": 1, "transient": 1}, {"extra-reference": 1, "lru-batch": 1}, ("endless", "-EBUSY at first")),
        ({"will-block": 1, "transient": 1}, {"writeback": 1, "pageblock-isolated": 1}, ("blocks", "-EBUSY at first")),
        ({"permanent": 1, "endless": 1, "transient": 1}, {"slab": 1, "lru-batch": 1}, ("no", "-EBUSY")),
        # Huge pages are taken apart at the end, if it comes to that.
        ({"permanent": 1}, {"hugetlb-vmemmap": 1}, ("no", "-ENOMEM")),
        ({"permanent": 1}, {"hugetlb-hwpoison": 1}, ("no", "-EBUSY")),
        ({"permanent": 1, "endless": 1}, {"hugetlb-hwpoison": 1, "extra-reference": 1}, ("endless", "")),
        ({"permanent": 1, "transient": 1}, {"hugetlb-vmemmap": 1, "isolated": 1}, ("no", "-ENOMEM")),
        ({"permanent": 1, "endless": 1}, {"hugetlb-vmemmap": 1, "extra-reference": 1}, ("endless", "")),
        ({"permanent": 1, "will-block": 1}, {"hugetlb-vmemmap": 1, "locked": 1}, ("blocks", "")),
        ({"permanent": 2}, {"hugetlb-vmemmap": 1, "slab": 1}, ("no", "-EBUSY")),
    ],
)
def test_offline(durations: dict[str, int], reasons: dict[str, int], said: tuple[str, str]) -> None:
    counts = PathCensus(refused=sum(durations.values()), reasons=reasons, durations=durations)
    census = BlockCensus(cast(Any, BLOCK), {"offline": counts})
    assert block_verdict(CONTEXT, census, "offline") == said


@pytest.mark.parametrize(
    ("odd", "durations", "offline", "contig"),
    [
        ({"cma": True}, {}, ("no", "-EBUSY: a CMA area"), ("yes", "")),
        ({"cma": True}, {"endless": 1}, ("no", "-EBUSY: a CMA area"), ("endless", "")),
        ({"isolated": True}, {}, ("later", ""), ("later", "")),
        ({"isolated": True}, {"endless": 1}, ("endless", "-EBUSY at first"), ("endless", "")),
        ({"isolated": True}, {"permanent": 1}, ("no", "-EBUSY"), ("no", "-EBUSY")),
    ],
)
def test_pageblocks_full_of_free_pages_count(
    odd: dict[str, bool], durations: dict[str, int], offline: tuple[str, str], contig: tuple[str, str]
) -> None:
    """CMA's and isolated ones are refused without a look at their pages."""
    counts = PathCensus(durations=durations)
    census = BlockCensus(cast(Any, BLOCK), {"offline": counts, "contig": counts}, **odd)  # type: ignore[arg-type]
    assert block_verdict(CONTEXT, census, "offline") == offline
    assert block_verdict(CONTEXT, census, "contig") == contig


def _gate(reason: Reason, lasts: Duration) -> Gate:
    return Gate(reason, "", lambda f: f, lasts)


GATES = (
    _gate(reasons.WRITEBACK, Duration.WILL_BLOCK),
    _gate(reasons.NO_MIGRATE_OP_DIRTY, Duration.PERMANENT),
    _gate(reasons.BUFFER_BUSY, Duration.TRANSIENT),
    _gate(reasons.DMA_PINNED, Duration.ENDLESS),
    _gate(reasons.EXTRA_REFERENCE, Duration.ENDLESS),
)


@pytest.mark.parametrize(
    ("mask", "passing", "lasts"),
    [
        (0b01000, False, Duration.ENDLESS),
        (0b01000, True, Duration.TRANSIENT),
        (0b10000, True, Duration.TRANSIENT),
        # Refused for another reason first, or for another one that lasts besides.
        (0b01001, True, Duration.WILL_BLOCK),
        (0b01010, True, Duration.PERMANENT),
        (0b01100, True, Duration.TRANSIENT),
    ],
)
def test_what_is_let_go_lasts_no_longer_than_what_refuses_it_besides(mask: int, passing: bool, lasts: Duration) -> None:
    """No check knows who holds a folio; where that is found, what the check says is not the last word."""
    assert duration(GATES, mask, (mask & -mask).bit_length() - 1, passing) is lasts


def test_a_lasting_check_behind_the_first_one_counts() -> None:
    """Whatever lets go of the folio then, it stays."""
    gates = (GATES[3], GATES[1])
    assert duration(gates, 0b11, 0, True) is Duration.ENDLESS


def test_a_block_outlives_what_passes() -> None:
    """Where all that was in its way is let go by itself, it is a matter of time; where one folio is not, it is not."""
    path = cast(Path, SimpleNamespace(name="offline", judge=lambda f: f.verdicts))
    counts = PathCensus(refused=3, reasons={"dma-pinned": 3}, durations={"endless": 3})
    census = BlockCensus(cast(Any, BLOCK), {"offline": counts})
    primary, mask = numpy.array([3, -1, 3, 3, 3]), numpy.array([8, 0, 8, 8, 8], numpy.uint64)
    # The last one changed while it was read, and was not counted.
    changing = numpy.array([False, False, False, False, True])
    f = cast(Folios, SimpleNamespace(verdicts=Verdicts(GATES, primary, mask), changing=changing))
    some = without(census, [path], f, numpy.array([True, True, False, True, True]))
    assert some.paths["offline"].durations == {"endless": 1, "transient": 2}
    assert block_verdict(CONTEXT, some, "offline") == ("endless", "")
    every = without(census, [path], f, numpy.ones(5, bool))
    assert every.paths["offline"].durations == {"transient": 3}
    assert block_verdict(CONTEXT, every, "offline") == ("later", "")
    assert census.paths["offline"].durations == {"endless": 3}
    describer = Describer.__new__(Describer)
    describer.context = CONTEXT
    assert describer.paths(every)["offline"]["verdict"] == "later"
