# SPDX-License-Identifier: LGPL-2.1-or-later
"""The dump's own BTF in place of the debug package: the same answer, to the letter, and at once."""

from __future__ import annotations

import time

import pytest

from drgn_thp.cli.common import REFUSALS
from drgn_thp.target import TargetSpec, open_target
from tests.vm.lab import Dump, ensure_dump
from tests.vm.matrix import KERNELS

from .command import NO_SYMBOLS, dwarf, report

pytestmark = pytest.mark.vm

WITH_BTF = [entry for entry in KERNELS if entry.name != "5.10"]


@pytest.fixture(scope="module", params=WITH_BTF, ids=lambda entry: entry.name)
def dump(request: pytest.FixtureRequest) -> Dump:
    """Each kernel that carries all that is needed."""
    return ensure_dump(request.param)


def test_reports_are_the_same_but_for_the_source_of_types(dump: Dump) -> None:
    """All of memory, all paths: tens of thousands of folios, compared line by line."""
    by_dwarf = report(dump.vmcore, *dwarf(dump), "--path", "all")
    by_btf = report(dump.vmcore, *NO_SYMBOLS, "--path", "all")
    assert by_dwarf.status == by_btf.status == REFUSALS
    assert len(by_dwarf.folios) > 10000
    assert by_btf.records[:-1] == by_dwarf.records[:-1]
    differing = {name for name in by_dwarf.summary if by_dwarf.summary[name] != by_btf.summary.get(name)}
    # The notes are of the source of types, too: what it cannot give.
    assert differing <= {"types", "notes"}
    assert by_btf.summary.keys() == by_dwarf.summary.keys()
    assert by_btf.summary["types"] == "BTF in the dump"
    assert by_dwarf.summary["types"] == f"DWARF of {dump.vmlinux}"


def test_opens_within_a_second(dump: Dump) -> None:
    """The point of it: no minute of downloading, and none of indexing."""

    def opening() -> float:
        start = time.process_time()
        target = open_target(TargetSpec(core=str(dump.vmcore), default_symbols="none"))
        assert target.types_source == "BTF in the dump"
        return time.process_time() - start

    assert min(opening() for _ in range(3)) <= 1.0
