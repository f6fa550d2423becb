# SPDX-License-Identifier: LGPL-2.1-or-later
"""What folios look like: everything in struct pages that a verdict can depend on; equals are judged once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy

from .folios import Column
from .memmap import Memmap, Rows

# Facts of the struct pages behind the first. (Of private, only hugetlb's flag counts.)
LARGE_FACTS = (
    "order",
    "large_flags",
    "entire_mapcount",
    "large_mapcount",
    "pincount",
    "mm_ids",
    "compound_dtor",
    "subpage_mapcounts",
    "hugetlb_migratable_flag",
    "broken",
)


@dataclass(frozen=True)
class Looks:
    """The looks of some folios."""

    state: Column
    """The flags that matter, with the kind of mapping in spare bits."""
    counts: Column
    """Map count or page type, and reference count."""
    apart: Column
    """Folios that are like no other, whatever they look like: something outside of their struct pages counts."""

    @staticmethod
    def concatenate(parts: list[Looks]) -> Looks:
        return Looks(
            numpy.concatenate([part.state for part in parts]),
            numpy.concatenate([part.counts for part in parts]),
            numpy.concatenate([part.apart for part in parts]),
        )


def distinct(memmap: Memmap, rows: Rows, looks: Looks) -> tuple[Column, Column]:
    """
    Return the rows that differ from each other, and for every row which of these it is like.

    Rows are sorted by a mixture of their facts; whether two are equal is then decided by the facts themselves.
    """
    large = numpy.flatnonzero(rows.order > 0)
    columns = [looks.state, looks.counts, numpy.where(looks.apart, rows.pfn + 1, 0)]
    f = memmap.folios(rows.select(large))
    for name in LARGE_FACTS:
        column = numpy.zeros(len(rows), numpy.uint64)
        column[large] = getattr(f, name).astype(numpy.uint64)
        columns.append(column)
    broken = numpy.flatnonzero(rows.broken)
    columns[2][broken] = rows.pfn[broken] + 1
    mixture = numpy.zeros(len(rows), numpy.uint64)
    for column in columns:
        mixture = (mixture ^ column.astype(numpy.uint64)) * numpy.uint64(0x9E3779B97F4A7C15)
        mixture ^= mixture >> numpy.uint64(29)
    _, chosen, which = numpy.unique(mixture, return_index=True, return_inverse=True)
    which = which.reshape(-1)
    equal = numpy.ones(len(rows), dtype=bool)
    for column in columns:
        equal &= column == column[chosen[which]]
    strangers = numpy.flatnonzero(~equal)
    if len(strangers):  # equal mixtures of different facts: each for itself
        which[strangers] = len(chosen) + numpy.arange(len(strangers))
        chosen = numpy.concatenate((chosen, strangers))
    return chosen, which
