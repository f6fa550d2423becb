# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Folios that look alike are judged once.

Most small folios of a host come in a few hundred combinations of flags, counts and kind of mapping. A combination is
judged by the same formulas and gates as any single folio, the first time it is met; after that, meeting it again costs
a look-up. Combinations are compared whole, so that two are never taken for one.
"""

from __future__ import annotations

from typing import Any

import numpy

from .folios import Column

_SLOTS = 1 << 16
MAX_CLASSES = 1 << 17
UNKNOWN = -1


class Classes:
    """The combinations met so far, numbered; a direct-mapped table finds them again."""

    def __init__(self) -> None:
        self._state = numpy.zeros(_SLOTS, numpy.uint64)
        self._counts = numpy.zeros(_SLOTS, numpy.uint64)
        self._number = numpy.full(_SLOTS, UNKNOWN, numpy.int32)
        self._row = numpy.zeros(_SLOTS, numpy.intp)
        self.length = 0

    def lookup(self, state: Column, counts: Column) -> Column:
        """
        Return the number of each combination, or :data:`UNKNOWN`.

        :param state: The flags that matter, with the kind of mapping in spare bits
        :param counts: Map count or page type, and reference count
        """
        slots = _slots(state, counts)
        numbers = self._number[slots]
        wrong = self._state[slots] != state
        wrong |= self._counts[slots] != counts
        if wrong.any():
            numbers[wrong] = UNKNOWN
        return numbers

    def add(self, state: Column, counts: Column) -> tuple[Column, Column]:
        """
        Number combinations that are not known yet. One that shares a slot with another takes its place.

        :return: The number of each, and the indices of the first one of each new number
        """
        numbers = numpy.full(len(state), UNKNOWN, numpy.int32)
        examples: list[Column] = []
        left = numpy.arange(len(state))
        while len(left):
            slots = _slots(state[left], counts[left])
            # Of all that fall into one slot, the last to be written stands for those equal to it; the rest come again.
            self._row[slots] = left
            chosen = self._row[slots]
            new = numpy.flatnonzero(chosen == left)
            rows = left[new]
            self._state[slots[new]], self._counts[slots[new]] = state[rows], counts[rows]
            self._number[slots[new]] = numpy.arange(self.length, self.length + len(rows), dtype=numpy.int32)
            self.length += len(rows)
            examples.append(rows)
            equal = (state[chosen] == state[left]) & (counts[chosen] == counts[left])
            numbers[left[equal]] = self._number[slots[equal]]
            left = left[~equal]
        return numbers, numpy.concatenate(examples) if examples else numpy.zeros(0, numpy.intp)


def _slots(state: Column, counts: Column) -> Any:
    mixed = counts * numpy.uint64(0x9E3779B97F4A7C15)
    mixed ^= state
    mixed *= numpy.uint64(0xD6E8FEB86659FD93)
    mixed >>= numpy.uint64(48)
    return mixed.view(numpy.int64)
