# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who holds and who maps some folios: of one, or of all that a report lists, at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy

from . import formulas
from .context import Context
from .folios import Column, Folios
from .holders.balance import Balance, Sheet
from .holders.running import Findings, find_holders
from .mappers import find_mappers
from .search import Search, find_chains
from .suspects import Suspects

Record = dict[str, Any]
MAX_SEARCHED = 1 << 12
"""Folios that kernel memory is searched for."""


@dataclass(frozen=True)
class Found:
    """
    What was found of one folio.

    :ivar mappers: As records, the first of them
    :ivar more_mappers: How many more there are
    :ivar chains: What was found to point to it, as records; None if that was not asked
    :ivar mapped: How often page tables map it; None if that is not known of all
    """

    sheet: Sheet
    mappers: tuple[Record, ...]
    more_mappers: int
    mapped: int | None
    chains: tuple[Record, ...] | None = None

    def fields(self) -> Record:
        """Return what a record of the folio has besides."""
        fields = {
            "holders": self.sheet.records(),
            "unexplained": self.sheet.unexplained,
            "mappers": list(self.mappers),
            "more_mappers": self.more_mappers,
        }
        return fields if self.chains is None else {**fields, "chains": list(self.chains)}


def passing(pfn: Column, balance: Balance, findings: Findings) -> Column:
    """Return which folios of a table are held, beyond what mm expects, by what lets go of them by itself alone."""
    result = numpy.zeros(len(pfn), bool)
    for row in numpy.flatnonzero(findings.may_pass(pfn)).tolist():
        sheet = balance.sheet(row)
        result[row] = sheet is not None and sheet.passing
    return result


class Whose:
    """
    Who holds and who maps the folios of some tables: every walker and every page table is looked at once.

    :ivar problems: What kept from finding all of them, in words
    """

    def __init__(self, context: Context, tables: Sequence[Folios], search: bool = False) -> None:
        """
        :param search: Whether to search the kernel's memory for what points to folios that are not explained
        """
        heads, sizes = [numpy.zeros(0, numpy.int64)], [numpy.zeros(0, numpy.int64)]
        for f in tables:
            user = formulas.is_user(f)
            heads.append(f.pfn[user].astype(numpy.int64))
            sizes.append(formulas.nr_pages(f)[user].astype(numpy.int64))
        pfn, pages = numpy.concatenate(heads), numpy.concatenate(sizes)
        self._context = context
        self.folios = len(pfn)
        suspects = Suspects(pfn, pages)
        self.findings = find_holders(context, suspects)
        self.mappers = find_mappers(context, suspects)
        self.problems = [*self.findings.problems, *self.mappers.failures]
        self.search: Search | None = None
        if search:
            self._search(tables)

    def _search(self, tables: Sequence[Folios]) -> None:
        unexplained: dict[int, int] = {}
        left = 0
        for f in tables:
            balance, pages = Balance(f, self.findings), formulas.nr_pages(f)
            for row in numpy.flatnonzero(formulas.is_user(f) & (formulas.extra_references(f) > 0)).tolist():
                sheet = balance.sheet(row)
                if sheet is not None and sheet.unexplained > 0:
                    if len(unexplained) < MAX_SEARCHED:
                        unexplained[int(f.pfn[row])] = int(pages[row])
                    else:
                        left += 1
        heads = numpy.array(sorted(unexplained), numpy.int64)
        sizes = numpy.array([unexplained[pfn] for pfn in heads.tolist()], numpy.int64)
        self.search = find_chains(self._context, heads, sizes, self.findings.files)
        self.problems += self.search.problems
        if left:
            self.problems.append(f"search: {left} folios were left out: there are too many")

    def table(self, f: Folios) -> Table:
        """Return what was found of the folios of one of the tables."""
        return Table(self, f)


class Table:
    """What was found of the folios of one table, in ascending order of their page frames."""

    def __init__(self, whose: Whose, f: Folios) -> None:
        self._whose = whose
        self._pfn = f.pfn
        self._balance = Balance(f, whose.findings)
        self._last: tuple[int, Found | None] = (-1, None)

    @cached_property
    def passing(self) -> Column:
        """Which folios are held by what lets go of them by itself alone."""
        return passing(self._pfn, self._balance, self._whose.findings)

    def of(self, pfn: int) -> Found | None:
        """Return what was found of a folio; None of the kernel's own pages, of which nothing is known."""
        if self._last[0] != pfn:
            self._last = (pfn, self._find(pfn))
        return self._last[1]

    def _find(self, pfn: int) -> Found | None:
        sheet = self._balance.sheet(int(numpy.searchsorted(self._pfn, pfn)))
        if sheet is None:
            return None
        mappers = self._whose.mappers
        records, more = mappers.records(pfn)
        search = self._whose.search
        chains = None if search is None else tuple(search.records(pfn))
        return Found(sheet, tuple(records), more, mappers.count(pfn) if mappers.complete else None, chains)
