# SPDX-License-Identifier: LGPL-2.1-or-later
"""``report --holders`` on real dumps: the same as of each folio alone, and it adds up."""

from __future__ import annotations

import json
from typing import Any

import pytest

from drgn_thp.cli import main
from tests.vm.lab import Dump, ensure_dump
from tests.vm.matrix import KERNELS, Kernel

pytestmark = pytest.mark.vm
FIELDS = ("holders", "unexplained", "mappers", "more_mappers")


def ask(capsys: pytest.CaptureFixture[str], dump: Dump, *words: str) -> list[dict[str, Any]]:
    target = ["-c", str(dump.vmcore), "-s", str(dump.vmlinux), "--main-symbols", "--path", "offline"]
    assert main([*words, *target, "--holders", "--format", "ndjson"]) in (0, 1)
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize("entry", KERNELS, ids=lambda entry: entry.name)
def test_a_report_says_of_a_folio_what_is_said_of_it_alone(entry: Kernel, capsys: pytest.CaptureFixture[str]) -> None:
    """One by one or all at once, and the summary is the sum; page tables agree with map counts on every folio."""
    dump = ensure_dump(entry)
    *records, summary = ask(capsys, dump, "report")
    folios = {record["pfn"]: record for record in records if record["kind"] == "folio"}
    total = summary["holders"]
    user = [record for record in folios.values() if record["holders"] is not None]
    assert total["folios"] == len(user)
    assert total["unexplained"] == sum(max(record["unexplained"], 0) for record in user)
    assert total["held"] == sum(bool(record["holders"]) for record in user) > 0
    assert total["over_attributed"] == 0
    assert summary["incomplete"] == []
    assert sum(group["refs"] for group in total["groups"]) == sum(
        holder["refs"] for record in user for holder in record["holders"]
    )
    held = [record["pfn"] for record in user if record["holders"]]
    alone = ask(capsys, dump, "folio", *map(hex, held[:4]))
    assert len(alone) == len(held[:4])
    for record in alone:
        assert {name: record[name] for name in FIELDS} == {name: folios[record["pfn"]][name] for name in FIELDS}
