# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Kernels of which nobody has a debug package: types and symbols are those that the dump itself carries.

Nothing here was seen when the package was written for the kernels of the matrix; the oracle is the guest.
"""

from __future__ import annotations

import pytest

from drgn_thp.cli.common import REFUSALS
from tests.vm.lab import Dump, ensure_dump
from tests.vm.matrix import IMAGE_ONLY

from .command import NO_SYMBOLS, held, movable, report

pytestmark = pytest.mark.vm


@pytest.fixture(scope="module", params=IMAGE_ONLY, ids=lambda entry: entry.name)
def dump(request: pytest.FixtureRequest) -> Dump:
    """Each of these kernels. A version that has left the mirror fails; it is never skipped."""
    made = ensure_dump(request.param)
    assert not made.vmlinux.exists(), "a debug package would take away the point"
    return made


def test_exactly_the_held_folios_are_refused(dump: Dump) -> None:
    """The main job, on a kernel for which there is no debug package."""
    outcome = report(dump.vmcore, *NO_SYMBOLS, *movable(dump), "--path", "contig")
    expected = held(dump)
    assert len(expected) >= 6, "the workload holds a base page, THPs, file pages and a hugetlb page"
    assert {pfn for pfn, _ in outcome.folios} == expected
    assert all(record["reason"] == "extra-reference" for record in outcome.folios.values())
    assert all((record["extra"], record["pins"]) == (1, 0) for record in outcome.folios.values())
    assert outcome.incomplete == ""
    assert outcome.status == REFUSALS


def test_nothing_is_missing_from_a_report_on_everything(dump: Dump) -> None:
    """All blocks, all paths: whatever a new kernel renames shows first in what a report says that it lacks."""
    outcome = report(dump.vmcore, *NO_SYMBOLS, "--path", "all")
    assert outcome.incomplete == ""
    assert outcome.summary["release"] == dump.release
    assert outcome.summary["types"] == "BTF in the dump"
    assert not any(block["derived"] for block in outcome.blocks)
    assert outcome.summary["unreadable_pages"] == 0
    assert not outcome.errors
