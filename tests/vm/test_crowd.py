# SPDX-License-Identifier: LGPL-2.1-or-later
"""Many processes with many files: who holds and who maps all that is refused is found in seconds, in little memory."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter

import pytest

from drgn_thp.holders import registry

from .dumps import ensure_dump
from .matrix import KERNELS, Kernel
from .scenes import CROWD

pytestmark = pytest.mark.vm

# As in workload/crowd/scenarios_crowd.c.
PROCESSES, PIPES, SOCKETS, SHARED = 300, 50, 10, 16
# Of processor time, for holders and mappers together; and for all files alone.
SECONDS = 5.0
FILES_SECONDS = 1.0
MEMORY_MIB = 64


@pytest.mark.parametrize("entry", KERNELS, ids=lambda entry: entry.name)
def test_crowd(entry: Kernel) -> None:
    """Each process has what it has; in a process of our own, whose memory nothing else has grown."""
    dump = ensure_dump(entry, scene=CROWD)
    command = [sys.executable, "-m", "tests.vm.crowd", str(dump.vmcore), str(dump.vmlinux)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert found["problems"] == []
    assert found["files"] >= 30000
    assert found["folios"] >= PROCESSES * (PIPES + SOCKETS) + SHARED
    pipes = Counter(number for owner, number in found["folios_by_owner"].items() if owner.startswith("pipe "))
    assert pipes == {PIPES: PROCESSES, SHARED: 1}
    # While nothing finds pages in sockets.
    assert found["unexplained"] == (0 if "socket" in registry().walkers else PROCESSES * SOCKETS)
    assert found["mappings"] >= PROCESSES * (PIPES + SOCKETS + SHARED)
    assert found["most_mappings"] == PROCESSES + 1
    assert found["files_seconds"] <= FILES_SECONDS
    assert found["holders_seconds"] + found["mappers_seconds"] <= SECONDS
    assert found["memory_mib"] <= MEMORY_MIB
