# SPDX-License-Identifier: LGPL-2.1-or-later
"""A guest whose emulator failed is booted again, and no other."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest

from .booted import EMULATOR_FAULT, TRIES, booted
from .guest import Guest, GuestError


class Boots:
    """Makes guests that fail with that on their consoles, one after another, and then one that comes up."""

    def __init__(self, *consoles: str) -> None:
        self.consoles = list(consoles)
        self.made = 0

    def make(self) -> Any:
        """Boot nothing."""
        self.made += 1
        return nullcontext(self)

    def serial(self) -> str:
        """Return all that was printed."""
        return self.consoles[self.made - 1]

    def reach(self, guest: Guest) -> None:
        """Fail, if it is to."""
        if self.made <= len(self.consoles):
            raise GuestError("end of the console: nothing that would tell")


def test_again_after_a_fault_of_the_emulator() -> None:
    """As often as it is allowed to."""
    boots = Boots(*[f"console: {EMULATOR_FAULT}: 0000"] * (TRIES - 1))
    with booted(boots.make, boots.reach) as guest:
        assert guest is boots  # type: ignore[comparison-overlap]
    assert boots.made == TRIES


@pytest.mark.parametrize("consoles", [[EMULATOR_FAULT] * TRIES, ["the workload failed", EMULATOR_FAULT]])
def test_failures_are_not_hidden(consoles: list[str]) -> None:
    """One that always comes, and one that is another's."""
    boots = Boots(*consoles)
    with pytest.raises(GuestError), booted(boots.make, boots.reach):
        pytest.fail("there is no guest")
    assert boots.made == (TRIES if consoles[0] == EMULATOR_FAULT else 1)
