# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where there is memory that offlining may use."""

from __future__ import annotations

import pytest

from drgn_thp.zones import Zone, movable_nodes, nodes_among_movable

NORMAL, MOVABLE = 2, 3


def zone(node: int, index: int, present_pages: int = 0x8000) -> Zone:
    return Zone(node, index, "", 0, 0x8000, present_pages, 0)


@pytest.mark.parametrize(
    ("zones", "movable", "among"),
    [
        pytest.param([zone(0, NORMAL)], [], [], id="one node has itself"),
        pytest.param([zone(0, NORMAL), zone(0, MOVABLE)], [], [], id="one node with both"),
        pytest.param([zone(0, NORMAL), zone(1, MOVABLE)], [1], [0], id="movable memory was added"),
        pytest.param([zone(0, NORMAL), zone(1, MOVABLE), zone(2, MOVABLE)], [1, 2], [0], id="more of it"),
        pytest.param([zone(0, NORMAL), zone(1, MOVABLE), zone(2, 0)], [1], [], id="another one for the kernel"),
        pytest.param([zone(0, NORMAL), zone(1, NORMAL, 0), zone(1, MOVABLE)], [1], [0], id="an empty zone"),
        pytest.param([zone(0, NORMAL), zone(1, MOVABLE, 0)], [1], [], id="all of it is offline"),
        # Not that this could run.
        pytest.param([zone(0, MOVABLE), zone(1, MOVABLE)], [0, 1], [0, 1], id="nothing for the kernel"),
        pytest.param([], [], [], id="nothing is known"),
    ],
)
def test_nodes(zones: list[Zone], movable: list[int], among: list[int]) -> None:
    assert (movable_nodes(zones, MOVABLE), nodes_among_movable(zones, MOVABLE)) == (movable, among)
