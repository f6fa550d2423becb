# SPDX-License-Identifier: LGPL-2.1-or-later
"""Struct pages of folios, and the facts in them: what a row of a table is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy

from .folios import Column, Folios
from .kernel import Kernel
from .layout import Field, Layout
from .pagetype import PageType


@dataclass(frozen=True)
class Rows:
    """Struct pages of some folios: enough to decode every fact of them, long after their chunk is gone."""

    pfn: Column
    pages: tuple[Column, ...]
    """The first struct pages of each folio, as bytes; zero where the folio has fewer."""
    order: Column
    subpage_mapcounts: Column
    """Sum of ``_mapcount + 1`` over the pages of a large folio, on kernels that keep no total."""
    broken: Column
    """Heads that contradict themselves: an order that does not fit the page frame. Taken as order 0."""
    changing: Column
    """Folios of a live target that contradicted themselves however often they were read (``settle.py``)."""

    def __len__(self) -> int:
        return len(self.pfn)

    @staticmethod
    def none(layout: Layout) -> Rows:
        page = numpy.zeros((0, layout.page_struct_size), numpy.uint8)
        number = numpy.zeros(0, numpy.int64)
        no = numpy.zeros(0, dtype=bool)
        return Rows(number, (page,) * layout.struct_pages, number, number, no, no)

    def select(self, rows: Column) -> Rows:
        return Rows(
            self.pfn[rows],
            tuple(page[rows] for page in self.pages),
            self.order[rows],
            self.subpage_mapcounts[rows],
            self.broken[rows],
            self.changing[rows],
        )


def concatenate(parts: list[Rows]) -> Rows:
    """Return one table with the rows of several."""
    return Rows(
        numpy.concatenate([part.pfn for part in parts]),
        tuple(numpy.concatenate([part.pages[i] for part in parts]) for i in range(len(parts[0].pages))),
        numpy.concatenate([part.order for part in parts]),
        numpy.concatenate([part.subpage_mapcounts for part in parts]),
        numpy.concatenate([part.broken for part in parts]),
        numpy.concatenate([part.changing for part in parts]),
    )


class FactReader:
    """Decodes the facts of folios, each when it is first asked for."""

    def __init__(self, layout: Layout, kernel: Kernel) -> None:
        self.layout = layout
        self.kernel = kernel

    def decode(self, field: Field, pages: Sequence[Column]) -> Column:
        """Return a field of each folio, from its first struct pages."""
        page = pages[field.page]
        if not len(page):
            return numpy.zeros(0, field.dtype)
        column: Column = numpy.ndarray((len(page),), field.dtype, page, field.offset, (self.layout.page_struct_size,))
        return column if field.mask is None else column & field.dtype.type(field.mask)

    def folios(self, rows: Rows) -> Folios:
        """Return the table of facts of some folios."""
        return Folios(len(rows), self.kernel, lambda name: self._fact(rows, name))

    def _fact(self, rows: Rows, name: str) -> Column:
        layout = self.layout
        if name in layout.flag_masks:
            page = layout.flag_pages[name]
            word = self._fact(rows, "large_flags" if page else "flags")
            return (word & numpy.uint64(layout.flag_masks[name])) != 0
        if name in ("pfn", "order", "subpage_mapcounts", "broken", "changing"):
            column: Column = getattr(rows, name)
            return column
        if name == "type":
            return self._type(rows)
        if name == "zone":
            return layout.zone.of(self._fact(rows, "flags")).astype(numpy.int64)
        if name == "node":
            return layout.node.of(self._fact(rows, "flags")).astype(numpy.int64)
        if name == "hugetlb_migratable_flag":
            return self._hugetlb_migratable_flag(rows)
        if name == "hugetlb_vmemmap_optimized":
            return self._private_bit(rows, "HPG_vmemmap_optimized")
        fact = layout.facts.get(name)
        if fact is None:
            raise AttributeError(f"no fact {name!r}")
        field = layout.fields.get(name)
        if field is None:
            return numpy.full(len(rows), fact.absent)
        column = self.decode(field, rows.pages).astype(numpy.int64 if field.dtype.kind == "i" else numpy.uint64)
        if fact.bias:
            column = column + fact.bias
        if fact.large_only:
            column = numpy.where((rows.order > 0) & (1 << rows.order > field.page), column, fact.absent)
        return column

    def _type(self, rows: Rows) -> Column:
        layout = self.layout
        types = layout.types.decode(self.decode(layout.fields["type_word"], rows.pages))
        types[self._fact(rows, "slab_flag")] = PageType.SLAB
        if layout.hugetlb_dtor is not None:
            huge = (rows.order > 0) & (self._fact(rows, "compound_dtor") == layout.hugetlb_dtor)
            types[huge] = PageType.HUGETLB
        types[self._fact(rows, "hugetlb_flag")] = PageType.HUGETLB
        return types

    def _hugetlb_migratable_flag(self, rows: Rows) -> Column:
        """Return HPG_migratable: a bit of ``private``; until v5.12 PG_private of the first tail page ("active")."""
        bit = self.layout.enumerators.get("HPG_migratable")
        if bit is None:
            return (self._fact(rows, "large_flags") & numpy.uint64(self.layout.flag("private_flag"))) != 0
        return self._private_bit(rows, "HPG_migratable")

    def _private_bit(self, rows: Rows, name: str) -> Column:
        """Return a bit of ``private`` of hugetlb folios (enum hugetlb_page_flags); False where there is no such bit."""
        bit = self.layout.enumerators.get(name)
        return (self._fact(rows, "private") & numpy.uint64(0 if bit is None else 1 << bit)) != 0
