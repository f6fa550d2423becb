# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whose kernel stack an address is on."""

from __future__ import annotations

from bisect import bisect_right

from .ground import Ground

_SIZE = 1 << 14  # of x86-64, if nothing says so


class Stacks:
    """The kernel stacks of all tasks."""

    def __init__(self, ground: Ground) -> None:
        tasks = ground.files.tasks.by_address.values()
        self._stacks = sorted((task.stack, task.address) for task in tasks if task.stack)
        self.size = (ground.size("union thread_union") if ground.has("union thread_union") else 0) or _SIZE

    def task(self, address: int) -> int:
        """Return the address of the ``struct task_struct`` on whose stack an address is; 0 for none."""
        i = bisect_right(self._stacks, (address, 1 << 64)) - 1
        return self._stacks[i][1] if i >= 0 and address - self._stacks[i][0] < self.size else 0
