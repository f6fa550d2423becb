# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Folios that a task has taken off the LRU, and cannot go on with: found by their lists, with what the task wants of them.

The task waits for one of them, too: that is no second reference.
"""

from __future__ import annotations

import pytest

from .dumps import ensure_dump
from .held import Machine, planted
from .matrix import KERNELS, Kernel
from .scenes import ISOLATED

pytestmark = pytest.mark.vm


@pytest.mark.parametrize("entry", KERNELS, ids=lambda entry: entry.name)
def test_who_isolated_is_found(entry: Kernel) -> None:
    """And whoever else has a reference; so all balances, of a memory block full of folios."""
    dump = ensure_dump(entry, scene=ISOLATED)
    machine = Machine.of(dump)
    found = machine.find()
    assert found.findings.problems == []
    assert found.unbalanced() == {}
    everybody = planted(dump)
    assert {one.kind for one in everybody} == {"move_pages", "offlining"}
    for one in everybody:
        rows = found.sheets[machine.head(one.pfn)].holders
        mine = [(held, who) for held, _, who in rows if held.kind == "isolated"]
        assert [(held.owner.what, {pid for pid, _, _ in who}) for held, who in mine] == [
            (f"isolated for {one.kind}", set(one.pids))
        ]
        assert [(held.gets, held.exact) for held, _ in mine] == [(1, False)]
    # Offlining takes what it finds of a memory block; up to 6.1, it moves one after another.
    isolated = {
        pfn for pfn, sheet in found.sheets.items() if any(held.kind == "isolated" for held, _, _ in sheet.holders)
    }
    assert isolated >= {machine.head(one.pfn) for one in everybody}
    assert entry.name in ("5.10", "6.1") or len(isolated) > len(everybody)
    assert machine.find({"isolated"}).unbalanced() == dict.fromkeys(isolated, (1, 0))
