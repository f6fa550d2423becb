# SPDX-License-Identifier: LGPL-2.1-or-later
"""Guests in which much goes on, looked at meanwhile: ``python -m tests.vm.churn`` does it for longer."""

from __future__ import annotations

import time

import pytest
from drgn import Program

from tests.vm.churn import PLANTED, Judge, churning, connect, held, run
from tests.vm.looking import PATHS
from tests.vm.matrix import KERNELS

pytestmark = [
    pytest.mark.vm,
    pytest.mark.skipif(not hasattr(Program, "set_qemu_qmp"), reason="this drgn has no set_qemu_qmp()"),
]

LEAST_PASSING = 1000
SECONDS = 12
ROUNDS = 3
WARM_UP_SECONDS = 2
FROM_INSIDE = "6.12"
"""A Python takes long to start under emulation: one kernel looks at itself, the others do in the long form."""


@pytest.mark.parametrize("name", [entry.name for entry in KERNELS])
def test_confirm_tells_what_is_held_from_what_passes(name: str) -> None:
    """Twenty pages in pipes for good, and more than a thousand folios in pipes, in I/O, in batches for a moment."""
    with churning(name, changes=False) as guest:
        prog, judge = connect(name, guest), Judge(guest, held(guest))
        time.sleep(WARM_UP_SECONDS)
        for _ in range(ROUNDS):
            judge.outside(prog)
        judge.excuse()
    assert not judge.missed
    assert not judge.wrong
    assert judge.said["outside"] == ROUNDS * PLANTED * len(PATHS) + sum(judge.excused.get("outside", {}).values())
    assert not judge.counted["outside"]["unconfirmed"]
    assert judge.passing["outside"] >= LEAST_PASSING * ROUNDS


@pytest.mark.parametrize("name", [entry.name for entry in KERNELS])
def test_churn(name: str) -> None:
    """Whatever goes on, what is held is said to be, nothing else is, and nothing fails; also from inside."""
    judge = run(name, SECONDS, inside=int(name == FROM_INSIDE))
    assert not judge.missed
    assert not judge.wrong
