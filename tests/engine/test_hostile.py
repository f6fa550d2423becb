# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Nothing that a dump contains makes the command crash, hang, fill memory, or break off what it could tell.

Each kernel's dump is damaged in every way of ``damage.py``, by fixed seeds, and asked for a report on all memory, one
on the memory block that was hit, and for what was hit itself. To see one again::

    python -m tests.engine.hostile KERNEL --only DAMAGE --seed N --debug
"""

from __future__ import annotations

import json
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from tests.vm.lab import ensure_dump
from tests.vm.matrix import KERNELS, Kernel

from .damage import DAMAGES
from .hostile import ROOM_BYTES, UNDAMAGED

pytestmark = pytest.mark.vm

ROOT = Path(__file__).parents[2]
SEEDS = 2
GROWTH_BYTES = ROOM_BYTES // 2
MINUTES = 10
Outcomes = list[dict[str, Any]]


@lru_cache(maxsize=1)
def run(entry: Kernel) -> Outcomes:
    """Damage one kernel's dump in a process of its own, and return how every command ended."""
    ensure_dump(entry)
    command = [sys.executable, "-m", "tests.engine.hostile", entry.name, "--seeds", str(SEEDS)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60 * MINUTES)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(params=KERNELS, ids=lambda entry: entry.name)
def outcomes(request: pytest.FixtureRequest) -> Outcomes:
    """How every command ended, for each kernel in turn."""
    return run(request.param)


def test_nothing_goes_wrong(outcomes: Outcomes) -> None:
    """No exception that nobody thought of, no hang, no control characters; and no report lost for a damaged detail."""
    *commands, _ = outcomes
    wrong = [outcome for outcome in commands if outcome["problem"]]
    assert not wrong, "\n".join(
        f"{o['damage']} {o['seed']}: {o['command']}: status {o['status']}: {o['problem']}\n{o['stderr']}" for o in wrong
    )


def test_memory_is_bounded(outcomes: Outcomes) -> None:
    """A count or length that the dump makes up must not be believed."""
    assert outcomes[-1]["grown_bytes"] < GROWTH_BYTES


def test_every_damage_was_done(outcomes: Outcomes) -> None:
    """Fifty mutants of each kernel and more; and the undamaged dump went through the same commands unharmed."""
    *commands, _ = outcomes
    mutants = {(outcome["damage"], outcome["seed"]) for outcome in commands}
    assert mutants == {(name, seed) for name in DAMAGES for seed in range(SEEDS)} | {(UNDAMAGED, 0)}
    assert len(mutants) * len(KERNELS) >= 200
    statuses = {outcome["status"] for outcome in commands if outcome["damage"] == UNDAMAGED}
    assert statuses <= {0, 1}


def test_damage_is_seen(outcomes: Outcomes) -> None:
    """
    What is lost is not passed over in silence: the status says that something is missing.

    These ways of damage always take away something that the answer needs.
    """
    for outcome in outcomes[:-1]:
        if outcome["damage"] == "unreadable_struct_pages" and outcome["command"].startswith("report"):
            assert outcome["status"] == 2, outcome
