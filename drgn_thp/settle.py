# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Folios of a live target that contradict themselves: read again, a bounded number of times, and never guessed.

Struct pages are read in one piece, but the kernel goes on while they are: a folio may be split or freed between its
first struct page and its last, and its references and mappings are counted in different words. What contradicts itself
was never so. What does not may have been over a moment later, which only looking again can tell (``confirm.py``).
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Callable

import numpy
from drgn import FaultError

from . import formulas
from .folios import Column, Folios
from .layout import Layout
from .memmap import Memmap, is_mask
from .rows import Rows, concatenate

TRIES = 6
_PAUSE = 0.0002
"""Seconds before the first of the tries; each of the others waits for twice as long: 13 ms in all."""


def contradicts(layout: Layout, rows: Rows, f: Folios) -> Column:
    """
    Return which folios contradict themselves.

    A head whose order is impossible; tails that are not its own; more mappings and caches than references, of a folio
    that has any.

    :param f: The table of the same rows
    """
    missing = formulas.is_user(f) & (f.refcount > 0) & (formulas.extra_references(f) < 0)
    result: Column = rows.broken | rows.changing | missing | (formulas.folio_mapcount(f) < 0)
    large = numpy.flatnonzero(rows.order > 0)
    if len(large):
        result[large] |= _tails_of_others(layout, rows.select(large))
    return result


def _tails_of_others(layout: Layout, rows: Rows) -> Column:
    """Return which large folios have a tail, of those that hold facts, that does not lead back to the head."""
    field, size = layout.fields["compound_word"], layout.page_struct_size
    result = numpy.zeros(len(rows), dtype=bool)
    heads = numpy.uint64(layout.vmemmap) + rows.pfn.astype(numpy.uint64) * numpy.uint64(size)
    for i in range(1, layout.struct_pages):
        words = numpy.ndarray((len(rows),), field.dtype, rows.pages[i], field.offset, (size,))
        leads = words == heads + numpy.uint64(1)
        if layout.tails_hold_masks:
            addresses = heads + numpy.uint64(i * size)
            masks = numpy.array([is_mask(int(word), size) for word in words.tolist()], dtype=bool)
            leads |= masks & ((words & numpy.uint64(1)) != 0) & (addresses & words == heads)
        result |= (numpy.int64(1) << rows.order > i) & ~leads
    return result


class Settler:
    """Settles the folios of one live target."""

    def __init__(self, memmap: Memmap) -> None:
        self._memmap = memmap
        self.read_again = 0
        """How many folios contradicted themselves when they were first read."""

    def settle(self, rows: Rows, bad: Column, table: Callable[[Rows], Folios]) -> Rows:
        """
        Read folios again, until they do not contradict themselves; those that go on doing so are marked as changing.

        A folio that has become another one in the meantime (of another order, or part of a larger one) is changing as
        well: what it was before it was read again is not known, and its pages are somebody else's now.

        :param bad: Indices of the folios
        :param table: Makes the table of some rows
        """
        self.read_again += len(bad)
        pause = _PAUSE
        for _ in range(TRIES):
            if not len(bad):
                return rows
            time.sleep(pause)
            pause *= 2
            again = concatenate([self._again(rows, row) for row in bad.tolist()])
            still = again.changing | contradicts(self._memmap.layout, again, table(again))
            good = numpy.flatnonzero(~still)
            rows = _put(rows, bad[good], again, good)
            bad = bad[still]
        changing = rows.changing.copy()
        changing[bad] = True
        return replace(rows, changing=changing)

    def _again(self, rows: Rows, row: int) -> Rows:
        """Read a folio again; as it was, but changing, if that is not possible or it is another one."""
        old = rows.select(numpy.array([row]))
        lost = replace(old, changing=numpy.ones(1, dtype=bool))
        try:
            new = self._memmap.read_folio(int(old.pfn[0]))
        except FaultError:
            return lost
        same = new.pfn[0] == old.pfn[0] and (old.broken[0] or new.order[0] == old.order[0])
        return new if same else lost


def _put(rows: Rows, places: Column, others: Rows, which: Column) -> Rows:
    """Return a table with some of its rows replaced."""
    order = numpy.arange(len(rows))
    order[places] = len(rows) + which
    return concatenate([rows, others]).select(order)
