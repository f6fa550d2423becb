# SPDX-License-Identifier: LGPL-2.1-or-later
"""What walkers stand on, where memory is hostile: every list has an end, and every address is looked at first."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from drgn_thp.context import Context
from drgn_thp.holders.ground import Ground
from drgn_thp.holders.model import Damaged, Outcome
from tests.fixture import ALL

BASE = 0x10000


@pytest.fixture
def ground(monkeypatch: pytest.MonkeyPatch) -> Ground:
    """A ground whose memory is an array of words from BASE on, each the address of the one behind it."""
    ground = Ground(Context.of(ALL[1].prog))
    ground.begin(Outcome("test"), 5)
    return ground


def memory(monkeypatch: pytest.MonkeyPatch, ground: Ground, words: dict[int, int]) -> None:
    monkeypatch.setattr(ground, "word", lambda address: words.get(address, 0))


def test_lists_end(monkeypatch: pytest.MonkeyPatch, ground: Ground) -> None:
    """A list that comes back to its head is one; one that comes back to anything else, or never, is damaged."""
    memory(monkeypatch, ground, {BASE: BASE + 16, BASE + 16: BASE + 32, BASE + 32: BASE})
    assert list(ground.entries(BASE, 8)) == [BASE + 8, BASE + 24]
    memory(monkeypatch, ground, {BASE: BASE})
    assert list(ground.entries(BASE)) == []
    memory(monkeypatch, ground, {BASE: BASE + 16, BASE + 16: BASE + 32, BASE + 32: BASE + 16})
    with pytest.raises(Damaged, match="does not end"):
        list(ground.entries(BASE))
    endless: Callable[[int], int] = lambda node: node + 8  # noqa: E731
    with pytest.raises(Damaged, match="does not end"):
        list(ground.chain(BASE, endless, 1000))


def test_trees_end(monkeypatch: pytest.MonkeyPatch, ground: Ground) -> None:
    """A node that is its own grandchild does not make a tree of any depth."""
    right = ground.offset("struct rb_node", "rb_right")
    memory(monkeypatch, ground, {BASE: BASE + 64, BASE + 64 + right: BASE + 128, BASE + 128 + right: BASE + 64})
    with pytest.raises(Damaged, match="does not end"):
        list(ground.tree(BASE))


def test_lengths_are_looked_at_before_they_are_read(ground: Ground) -> None:
    """A count of four thousand million asks for no memory."""
    with pytest.raises(Damaged, match="cannot be right"):
        ground.words(BASE, 0xFFFFFFFF)
    with pytest.raises(Damaged, match="cannot be right"):
        ground.words(BASE, -1)


def test_wild_pages_are_counted(ground: Ground) -> None:
    """What is not the address of a struct page is nobody's page, and not a page frame of any number."""
    start, size = ground.context.layout.vmemmap, ground.context.layout.page_struct_size
    beyond = start + ground.context.end_pfn * size
    wild = [start + 3 * size, 0, start + 1, start - size, beyond, struct.unpack("Q", b"\xff" * 8)[0]]
    assert ground.pfns(wild).tolist() == [3]
    assert ground.outcome.failures == 4
    assert "is no struct page" in ground.outcome.first_failure
