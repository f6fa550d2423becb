# SPDX-License-Identifier: LGPL-2.1-or-later
"""Lists that drgn's helpers would walk for ever."""

from __future__ import annotations

import pytest

from drgn_thp.blocks import read_blocks
from drgn_thp.context import Context
from drgn_thp.endless import ends
from drgn_thp.target import TargetSpec, open_target
from tests.fixture import EACH, Fixture


@pytest.mark.parametrize("fixture", EACH)
def test_a_cycle_is_noticed(fixture: Fixture) -> None:
    """Blocks are derived from the sections, as if the list of blocks itself were damaged."""
    prog = open_target(TargetSpec(core=str(fixture.core), default_symbols="none")).prog
    context = Context.of(prog)
    whole, notes = read_blocks(prog, context.sections)
    assert ends(prog, "bus_kset")
    assert not notes
    first = int(prog["bus_kset"].list.next.value_())

    def to_itself(address: int, count: int, offset: int, physical: bool) -> bytes:
        return first.to_bytes(8, "little")[offset : offset + count]

    prog.add_memory_segment(first, 8, to_itself, False)
    assert not ends(prog, "bus_kset")
    derived, notes = read_blocks(prog, context.sections)
    assert any("leads back into itself" in note for note in notes)
    assert sum(b.end_pfn - b.start_pfn for b in derived) >= sum(
        b.end_pfn - b.start_pfn for b in whole if b.state == "online"
    )
