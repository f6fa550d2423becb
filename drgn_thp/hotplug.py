# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which memory blocks of a live target came, went, or went on- or offline while a report was made of it."""

from __future__ import annotations

from collections.abc import Iterable

from .blocks import Block, read_blocks
from .context import Context
from .errors import UnknownLayout
from .sections import read_sections

TRIES = 3


def list_blocks(context: Context) -> tuple[list[Block], list[str]]:
    """Return all memory blocks, and what went wrong. Of a live target, where something did, the list is read again."""
    for _ in range(TRIES if context.live else 1):
        blocks, notes = read_blocks(context.prog, context.sections)
        if not notes:
            break
    return blocks, notes


class Comparison:
    """Compares the blocks that a report told of with what there is when it is done."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._told: dict[tuple[int, int], bool] = {}

    def told(self, block: Block) -> None:
        """Note what was said of a block."""
        if block.id is not None:
            self._told[block.start_pfn, block.end_pfn] = block.online

    def outcome(self, now: Iterable[Block]) -> tuple[int, int]:
        """
        Return how many blocks are not any more what was said of them, and how many have come, which were not looked at.

        :param now: All that there is
        """
        there = {(block.start_pfn, block.end_pfn): block.online for block in now if block.id is not None}
        changed = sum(there.get(place, False) != online for place, online in self._told.items())
        return changed, sum(online and place not in self._told for place, online in there.items())

    def blocks_now(self) -> list[Block]:
        """Return the blocks that there are now; those of before, if they cannot be read."""
        try:
            sections = read_sections(self._context.prog)
        except UnknownLayout:
            sections = self._context.sections
        blocks, _ = read_blocks(self._context.prog, sections)
        return blocks
