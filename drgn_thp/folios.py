# SPDX-License-Identifier: LGPL-2.1-or-later
"""A table of folios: one row per folio, one numpy column per fact, each column decoded when it is first asked for."""

from __future__ import annotations

from collections.abc import Mapping
from functools import wraps
from typing import Any, Callable

import numpy

from .facts import FACTS, FLAGS
from .kernel import Kernel

# A numpy array of one dimension. Its operators give Any whatever it is annotated with.
Column = Any


# Columns that are attached to a table, beside the facts: see Context in ``context.py``.
ATTACHED_BOOLEANS = (
    "broken",
    "buffer_busy",
    "changing",
    "has_writepage",
    "huge_zero",
    "hugetlb_available",
    "hugetlb_migratable_flag",
    "hugetlb_room_on_node",
    "hugetlb_supported",
    "hugetlb_target",
    "hugetlb_target_on_node",
    "hugetlb_vmemmap_optimized",
    "inaccessible",
    "kernel_memory_on_node",
    "ksm_lost",
    "others_all_movable",
    "pageblock_cma",
    "pageblock_isolated",
    "undecided",
    "virtio_mem",
    "zero_page",
)
_WORDS = frozenset(fact.name for fact in FACTS if fact.dtype == "u8")
BOOLEANS = frozenset(ATTACHED_BOOLEANS) | {flag.name for flag in FLAGS}


class Folios:
    """
    Columns of folios of one kernel.

    ``f.refcount`` is an array with an entry per row. Facts come from ``source``; what the formulas add is a function of
    the table, not a column of it.
    """

    def __init__(self, length: int, kernel: Kernel, source: Callable[[str], Column]) -> None:
        self.length = length
        self.kernel = kernel
        self._source = source

    def __getattr__(self, name: str) -> Column:
        if name.startswith("_"):
            raise AttributeError(name)
        column = self._source(name)
        setattr(self, name, column)
        return column

    def __len__(self) -> int:
        return self.length

    def attach(self, **columns: Column) -> None:
        """Add columns that do not come from struct pages: what the folios' mappings, zones or batches say."""
        for name, column in columns.items():
            setattr(self, name, column)

    def select(self, rows: Column) -> Folios:
        """Return the table of some rows (indices or a mask)."""
        length = int(numpy.count_nonzero(rows)) if rows.dtype == bool else len(rows)
        return Folios(length, self.kernel, lambda name: getattr(self, name)[rows])


def formula(function: Callable[[Folios], Column]) -> Callable[[Folios], Column]:
    """Make a function of a table a column that is computed once per table, however many others ask for it."""
    key = f"{function.__module__}.{function.__qualname__}"

    @wraps(function)
    def once(f: Folios) -> Column:
        columns = f.__dict__
        if key not in columns:
            columns[key] = function(f)
        column: Column = columns[key]
        return column

    return once


def table(kernel: Kernel, columns: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> Folios:
    """
    Make a table from plain columns: for tests, and for folios described by hand.

    :param columns: Sequences of equal length, by fact
    :param defaults: Value of columns that are not given; 0 or False where they are not in here either
    """
    arrays = {name: numpy.asarray(column, numpy.uint64 if name in _WORDS else None) for name, column in columns.items()}
    lengths = {len(array) for array in arrays.values()}
    if len(lengths) != 1:
        raise ValueError(f"columns of different lengths: {sorted(lengths)}")
    length = lengths.pop()

    def source(name: str) -> Column:
        if name in arrays:
            return arrays[name]
        if defaults is not None and name in defaults:
            return numpy.full(length, defaults[name])
        return numpy.full(length, False if name in BOOLEANS else 0, numpy.uint64 if name in _WORDS else None)

    return Folios(length, kernel, source)
