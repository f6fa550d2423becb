# SPDX-License-Identifier: LGPL-2.1-or-later
"""A huge page of 1 GiB is in eight memory blocks: it counts in each, and is listed and added up once."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from .dumps import Dump, ensure_dump
from .matrix import KERNELS, Kernel
from .scenes import GIGANTIC

pytestmark = pytest.mark.vm

GIB, PAGES_PER_BLOCK = 1 << 18, 1 << 15
SPANNED = GIB // PAGES_PER_BLOCK


def report(dump: Dump, *options: str) -> tuple[dict[int, Any], list[Any], Any]:
    """Return the records of blocks, of folios, and the summary."""
    command = [sys.executable, "-m", "drgn_thp", "report", "-c", str(dump.vmcore), "-s", str(dump.vmlinux)]
    command += ["--main-symbols", "--path", "contig", "--format", "ndjson", "--only", "hugetlb-gigantic"]
    command += ["--only", "hugetlb-contig", *options]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode in (0, 1), result.stderr + result.stdout[-1000:]
    *records, summary = map(json.loads, result.stdout.splitlines())
    blocks = {record["block"]: record for record in records if record["kind"] == "block"}
    return blocks, [record for record in records if record["kind"] == "folio"], summary


@pytest.mark.parametrize("entry", KERNELS, ids=lambda entry: entry.name)
def test_every_block_of_a_gigantic_page_has_it(entry: Kernel) -> None:
    dump = ensure_dump(entry, scene=GIGANTIC)
    [head] = {mark.pfn for mark in dump.marks if mark.scenario == "gigantic_used" and mark.index == 0}
    first = head // PAGES_PER_BLOCK
    blocks, folios, summary = report(dump)
    for block in range(first, first + SPANNED):
        assert (blocks[block]["folios"], blocks[block]["used_pages"], blocks[block]["free_pages"]) == (
            1,
            PAGES_PER_BLOCK,
            0,
        )
        assert blocks[block]["paths"]["contig"]["refused"] == 1
        assert blocks[block]["paths"]["contig"]["refused_pages"] == PAGES_PER_BLOCK
    assert [record["pfn"] for record in folios].count(head) == 1
    # What is in the blocks is added up, and this page and the free one only once.
    whole = sum(record["folios"] for record in blocks.values())
    assert summary["folios"] == whole - 2 * (SPANNED - 1)
    # Whoever asks for a part of it has it there.
    _, folios, summary = report(dump, "--block", str(first + 2), "--block", str(first + 3))
    assert [record["pfn"] for record in folios] == [head]
    assert summary["folios"] == 1
