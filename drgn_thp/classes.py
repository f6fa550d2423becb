# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Folios that look alike are judged once.

Most small folios of a host come in a few hundred combinations of flags, counts and kind of mapping. A combination is
judged by the same formulas and gates as any single folio, the first time it is met; after that, meeting it again costs a
look-up. Combinations are compared whole, so that two are never taken for one.
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
        self.length = 0

    def lookup(self, state: Column, counts: Column) -> Column:
        """
        Return the number of each combination, or :data:`UNKNOWN`.

        :param state: The flags that matter, with the kind of mapping in spare bits
        :param counts: Map count or page type, and reference count
        """
        slots = self._slots(state, counts)
        numbers = self._number[slots]
        wrong = (self._state[slots] != state) | (self._counts[slots] != counts)
        if wrong.any():
            numbers[wrong] = UNKNOWN
        return numbers

    def add(self, state: Column, counts: Column) -> Column:
        """
        Number combinations that are not known yet. One that shares a slot with another takes its place.

        :return: Indices, into what was given, of the one that stands for each new number
        """
        pairs = numpy.empty(len(state), dtype=[("state", "u8"), ("counts", "u8")])
        pairs["state"], pairs["counts"] = state, counts
        _, first = numpy.unique(pairs, return_index=True)
        slots = self._slots(state[first], counts[first])
        self._state[slots], self._counts[slots] = state[first], counts[first]
        self._number[slots] = numpy.arange(self.length, self.length + len(first), dtype=numpy.int32)
        self.length += len(first)
        return first

    @staticmethod
    def _slots(state: Column, counts: Column) -> Any:
        mixed = (state ^ counts * numpy.uint64(0x9E3779B97F4A7C15)) * numpy.uint64(0xD6E8FEB86659FD93)
        return (mixed >> numpy.uint64(48)).astype(numpy.intp)
