# SPDX-License-Identifier: LGPL-2.1-or-later
"""What becomes of a memory block, from the reasons counted in it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from drgn_thp.census import BlockCensus, PathCensus
from drgn_thp.verdicts import block_verdict

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
    ],
)
def test_offline(durations: dict[str, int], reasons: dict[str, int], said: tuple[str, str]) -> None:
    counts = PathCensus(refused=sum(durations.values()), reasons=reasons, durations=durations)
    census = BlockCensus(cast(Any, BLOCK), {"offline": counts})
    assert block_verdict(CONTEXT, census, "offline") == said
