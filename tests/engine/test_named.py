# SPDX-License-Identifier: LGPL-2.1-or-later
"""``folio --holders`` on real dumps: who holds a folio and who maps it, by name."""

from __future__ import annotations

import json

import pytest

from drgn_thp.cli import main
from tests.vm.lab import ensure_dump
from tests.vm.matrix import KERNELS, Kernel

pytestmark = pytest.mark.vm


@pytest.mark.parametrize("entry", KERNELS, ids=lambda entry: entry.name)
def test_who_holds_a_copied_on_write_thp(entry: Kernel, capsys: pytest.CaptureFixture[str]) -> None:
    """The process with the pipe, and both that map the folio, one of them with a hole where it has written."""
    dump = ensure_dump(entry)
    marks = [mark for mark in dump.marks if mark.scenario == "thp_cow_held" and mark.held]
    # Both map it, and one of them has written to a page of it.
    pids = {mark.pid for mark in dump.marks if mark.scenario == "thp_cow_held" and mark.vaddr}
    target = ["-c", str(dump.vmcore), "-s", str(dump.vmlinux), "--main-symbols"]
    asked = ["folio", hex(marks[0].pfn), "--path", "offline", "--holders", *target]
    main([*asked, "--format", "json"])
    [record] = json.loads(capsys.readouterr().out)
    [holder] = record["holders"]
    assert (holder["kind"], holder["comm"], holder["refs"], holder["exact"]) == ("pipe", "thp_cow_held", 1, True)
    assert record["unexplained"] == 0
    pages: dict[int, int] = {}
    for mapper in record["mappers"]:
        assert mapper["comm"] == "thp_cow_held"
        assert mapper["start"] <= mapper["address"] < mapper["end"]
        pages[mapper["pid"]] = pages.get(mapper["pid"], 0) + mapper["pages"]
    assert pids <= set(pages)
    assert holder["pid"] in pages
    assert sorted(pages.values()) == [511, 512]
    main(asked)
    out = capsys.readouterr().out
    assert "INCOMPLETE" not in out
    assert f"{holder['pid']} (thp_cow_held) fd {holder['fd']}" in out
    assert "mapped by\n" in out
