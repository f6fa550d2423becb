# SPDX-License-Identifier: LGPL-2.1-or-later
"""Guests in which much goes on, looked at from outside: ``python -m tests.vm.churn`` does it for longer."""

from __future__ import annotations

import time

import pytest
from drgn import Program

from tests.vm.churn import PATHS, PLANTED, churning, connect, excuse, held, look, run
from tests.vm.matrix import KERNELS

pytestmark = [
    pytest.mark.vm,
    pytest.mark.skipif(not hasattr(Program, "set_qemu_qmp"), reason="this drgn has no set_qemu_qmp()"),
]

LEAST_PASSING = 1000
SECONDS = 12
ROUNDS = 3
WARM_UP_SECONDS = 2


@pytest.mark.parametrize("name", [entry.name for entry in KERNELS])
def test_confirm_tells_what_is_held_from_what_passes(name: str) -> None:
    """Twenty pages in pipes for good, and more than a thousand folios in pipes, in I/O, in batches for a moment."""
    passing = 0
    with churning(name, changes=False) as guest:
        prog = connect(name, guest)
        time.sleep(WARM_UP_SECONDS)
        for _ in range(ROUNDS):
            result = look(prog, held(guest))
            excuse(guest, result)
            assert not result.missed
            assert not result.wrong
            assert result.labels["persistent"] == PLANTED * len(PATHS) + result.excused
            assert not result.counted["unconfirmed"]
            passing += result.passing
    assert passing >= LEAST_PASSING * ROUNDS


@pytest.mark.parametrize("name", [entry.name for entry in KERNELS])
def test_churn(name: str) -> None:
    """Whatever goes on, what is held is persistent, nothing else is, and nothing fails."""
    assert run(name, SECONDS)
