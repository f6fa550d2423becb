# SPDX-License-Identifier: LGPL-2.1-or-later
"""Lists that drgn's helpers walk to their end before they return: in a damaged dump, there may be none."""

from __future__ import annotations

from drgn import FaultError, Program
from drgn.helpers.linux.list import list_for_each

MAX_KSET = 1 << 14


def ends(prog: Program, kset: str) -> bool:
    """
    Return whether the walk of a ``struct kset *`` variable's list ends, if only where it cannot be read.

    drgn (0.2) looks for a bus in ``bus_kset``, and for a class in ``class_kset``; without them it does not. What it
    looks for comes before most of the list, which need not be in a slim core.
    """
    seen: set[int] = set()
    try:
        for node in list_for_each(prog[kset].list.address_of_()):
            if node.value_() in seen or len(seen) >= MAX_KSET:
                return False
            seen.add(node.value_())
    except (LookupError, FaultError):
        return True
    return True
