# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every memory block is offlined for real, and what the kernel answers held against the verdict on it."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from typing import Any

import pytest

from .dumps import Dump, ensure_dump
from .matrix import KERNELS, Kernel, kernel
from .rewind import Rewound
from .scenes import GIGANTIC

pytestmark = pytest.mark.vm

ENDLESS_SECONDS = 6
"""What has not been answered by then is tried again and again."""


def verdicts(dump: Dump) -> dict[int, tuple[str, str]]:
    """Return what is said of each memory block: verdict and answer."""
    command = [sys.executable, "-m", "drgn_thp", "report", "-c", str(dump.vmcore), "-s", str(dump.vmlinux)]
    command += ["--main-symbols", "--path", "offline", "--format", "ndjson", "--only", "broken-compound"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode in (0, 1), result.stderr + result.stdout[-1000:]
    found = {}
    for record in map(json.loads, result.stdout.splitlines()):
        if record["kind"] == "block" and record["block"] is not None:
            own: dict[str, Any] = record["paths"]["offline"]
            found[record["block"]] = own["verdict"], own["answer"] or ""
    return found


def expected(verdict: str, answer: str) -> list[str]:
    """Return what the agent is to say."""
    if verdict == "no":
        return ["W", str(getattr(errno, answer.partition(":")[0].removeprefix("-")))]
    return ["W", "running"] if verdict == "endless" else ["W", "0"]


@pytest.mark.parametrize("entry", KERNELS, ids=lambda entry: entry.name)
def test_blocks_answer_as_was_said(entry: Kernel) -> None:
    """Those that refuse at once are asked first, and what never ends last: a block may need room in another."""
    dump = ensure_dump(entry)
    said = verdicts(dump)
    assert {verdict for verdict, _ in said.values()} == {"yes", "no", "endless"}
    order = sorted(said, key=lambda block: (["no", "yes", "endless"].index(said[block][0]), block))
    answers = {}
    with Rewound(dump) as rewound:
        for block in order:
            path = f"/sys/devices/system/memory/memory{block}/state"
            (answers[block],) = rewound.ask(f"write {ENDLESS_SECONDS} {path} offline")
    assert answers == {block: expected(*said[block]) for block in said}


def test_memory_of_a_cma_area_is_refused_even_if_it_is_free() -> None:
    """Of the kernels here only 7.3 has CMA: 1 GiB for hugetlb."""
    dump = ensure_dump(kernel("7.3"), scene=GIGANTIC)
    said = {block: found for block, found in verdicts(dump).items() if "CMA" in found[1]}
    assert len(said) == 8
    assert set(said.values()) == {("no", "-EBUSY: a CMA area")}
    with Rewound(dump) as rewound:
        for block in said:
            path = f"/sys/devices/system/memory/memory{block}/state"
            assert rewound.ask(f"write {ENDLESS_SECONDS} {path} offline") == [expected(*said[block])]
