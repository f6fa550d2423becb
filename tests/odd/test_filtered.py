# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Dumps that went through makedumpfile: what distributions' kdump leaves on disk.

Nothing of the memmap is ever filtered. What is (user pages, page cache, free pages; and by versions of makedumpfile
that do not know the kernel, slab) must be missing from the answer by name and number, or not be needed for it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from drgn_thp.cli.common import INCOMPLETE, REFUSALS

from .command import Outcome, held, without
from .conftest import Odd
from .cores import Core, filtered, has_zstd

pytestmark = pytest.mark.vm

LEVELS = ["1", "31"]
COMPRESSIONS = {"zlib": "-c", "lzo": "-l"} | ({"zstd": "-z"} if has_zstd() else {})


@pytest.fixture(scope="module")
def mended(odd: Odd) -> Core:
    odd.core.mend()
    return odd.core


@pytest.fixture(scope="module", params=[(c, level) for level in LEVELS for c in COMPRESSIONS], ids="-d".join)
def kdump(request: pytest.FixtureRequest, odd: Odd, mended: Core) -> Path:
    """A kdump-compressed core."""
    compression, level = request.param
    return filtered(mended, odd.directory / f"{compression}{level}", COMPRESSIONS[compression], "-d", level)


def check_same_refusals(odd: Odd, outcome: Outcome) -> None:
    """
    Check that node 1 is answered as from the whole dump, or that the difference is owned up to.

    Folios of an address_space that a filter removed may be refused for what it would have said; those are counted.
    """
    whole, found = odd.whole.folios, outcome.folios
    assert not outcome.errors
    assert {pfn for pfn, path in found if path == "contig"} >= held(odd.dump)
    undecided = {key for key in found if found[key]["mapping"] == "unreadable"}
    for key in sorted(set(whole) | set(found)):
        if key in undecided:
            continue
        if key not in found:
            assert "address_spaces could not be read" in outcome.incomplete, whole[key]
            assert whole[key]["type"] == "file"
        else:
            assert found[key] == whole[key]
    if outcome.incomplete:
        assert outcome.status == INCOMPLETE
        return
    assert outcome.status == REFUSALS
    assert without(outcome.records, "types", "notes") == without(odd.whole.records, "types", "notes")


def test_node_1_is_answered_as_from_the_whole_dump(odd: Odd, kdump: Path) -> None:
    """Each compression, each level, each source of types."""
    for way in odd.ways:
        check_same_refusals(odd, odd.report(kdump, way))


def test_mended_core_gives_the_same(odd: Odd, mended: Core) -> None:
    """Else a difference of the filtered ones might be the mender's."""
    outcome = odd.report(mended.path, odd.ways[0])
    assert without(outcome.records, "types") == without(odd.whole.records, "types")
    assert outcome.status == REFUSALS
