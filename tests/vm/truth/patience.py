# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Whether a guest still gets on with what it was asked for: measured by what it does, and not by a clock.

A guest that goes on trying runs, and one that waits for ever rests. On a busy machine the one takes longer, and the
other does not look like the one.
"""

from __future__ import annotations

import time

from tests.vm.guest import Guest

# Of one CPU. Who waits wakes up now and then.
AT_REST = 0.3
MOMENTS, MOMENT_SECONDS = 5, 0.02


class Patience:
    """How long to wait for a guest that shows nothing new."""

    def __init__(self, guest: Guest, runs: float, rests: float) -> None:
        """
        :param runs: Seconds that its CPUs may run, added up
        :param rests: Seconds that it may rest, one after the other
        """
        self._guest = guest
        self._runs, self._rests = runs, rests
        self._seen: object = None
        self._began = guest.ran()
        self._last = (time.monotonic(), guest.ran())
        self._rested = 0.0

    def over(self, seen: object) -> bool:
        """
        Return whether to give up.

        :param seen: Something that is another one as long as the guest gets on
        """
        now, ran = time.monotonic(), self._guest.ran()
        passed, spent = now - self._last[0], ran - self._last[1]
        self._last = (now, ran)
        rests = spent < AT_REST * passed and self._sleeps()
        self._rested = self._rested + passed if rests else 0.0
        if seen != self._seen:
            self._seen, self._began, self._rested = seen, ran, 0.0
        return self._rested > self._rests or ran - self._began > self._runs

    def _sleeps(self) -> bool:
        """Return whether it sleeps, or does after a moment, for what was asked of it to look at it."""
        for _ in range(MOMENTS):
            if not self._guest.wants_to_run():
                return True
            time.sleep(MOMENT_SECONDS)
        return False
