# SPDX-License-Identifier: LGPL-2.1-or-later
"""Guests that have booted: another one, where the emulator broke the first."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .guest import Guest, GuestError

# Now and then the emulator executes code that the kernel has just patched, with several CPUs, as it was half-way: one
# of some 50 boots on a machine with twice the work that it can do.
EMULATOR_FAULT = "Oops: int3"
TRIES = 3


def wait_until_ready(guest: Guest) -> None:
    """Wait for what a workload prints when it is there."""
    guest.wait_for("READY")


@contextmanager
def booted(make: Callable[[], Guest], reach: Callable[[Guest], None] = wait_until_ready) -> Iterator[Guest]:
    """
    Yield a guest that has come as far as ``reach`` waits for.

    :raises GuestError: if it does not, for another reason than the emulator's own, or again and again
    """
    for left in reversed(range(TRIES)):
        with make() as guest:
            try:
                reach(guest)
            except GuestError:
                # Not of the error: its end of the console may not reach back to the line that tells.
                if EMULATOR_FAULT not in guest.serial() or not left:
                    raise
                print(f"{EMULATOR_FAULT} while booting: the emulator's, once more", file=sys.stderr, flush=True)
                continue
            yield guest
            return
