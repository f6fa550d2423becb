# SPDX-License-Identifier: LGPL-2.1-or-later
"""``thp``: large folios of processes and files."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, TextIO

import numpy
from drgn import FaultError

from ..context import Context
from ..describe import Record
from ..facts import DEFERRED_LIST
from ..folios import Column, Folios
from ..formulas import PageHuge, folio_mapcount, is_user
from ..layout import find_offset
from ..session import Session
from .model import BLOCKS, Answer, Argument, Listing, number, write_incomplete, write_table

DESCRIPTION = (
    "List large folios of processes and files (THP, mTHP and large folios of the page cache; hugetlb is none of them):"
    " by what they are mapped, whether all of them is, whether they wait on a deferred split queue, and whether a split"
    " would succeed, or why not."
)


def arguments() -> Sequence[Argument]:
    """Return the options."""
    return (BLOCKS,)


def is_thp(f: Folios) -> Column:
    """Return which folios are large, and neither hugetlb's nor the kernel's own."""
    return (f.order > 0) & is_user(f) & ~PageHuge(f)


class _Mapped:
    """Reads what of a large folio is not in its first struct pages."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._deferred = find_offset(context.prog, DEFERRED_LIST)

    def record(self, f: Folios, i: int) -> Record:
        pmd, total = int(f.entire_mapcount[i]), int(folio_mapcount(f)[i])
        pages = self._pages(f, i, pmd, total)
        return {
            "kind": "thp",
            "pmd_mappings": pmd,
            "pte_mappings": total - pmd,
            "mapped_pages": pages,
            "partially_mapped": None if pages is None else 0 < pages < 1 << int(f.order[i]),
            "deferred": self._on_queue(f, i),
        }

    def _pages(self, f: Folios, i: int, pmd: int, total: int) -> int | None:
        """Return how many pages of a folio are mapped; None where that cannot be known."""
        size = 1 << int(f.order[i])
        if pmd or total <= 0:
            return size if pmd > 0 else 0
        memmap = self._context.memmap
        try:
            chunk = memmap.read(int(f.pfn[i]), size)
        except FaultError:
            return None
        counts = chunk.column(self._context.layout.fields["type_word"]).astype(numpy.int32)
        mapped = int(numpy.count_nonzero(counts >= 0))
        # Without CONFIG_PAGE_MAPCOUNT nobody counts by page.
        return mapped or None

    def _on_queue(self, f: Folios, i: int) -> bool | None:
        if self._deferred is None or f.order[i] < 2:  # the list is in the third struct page
            return None
        address = self._context.memmap.page_address(int(f.pfn[i])) + self._deferred
        try:
            following = int(self._context.prog.read_u64(address))
        except FaultError:
            return None
        return following not in (0, address) and bool(following >> 63)


def ask(session: Session, arguments: argparse.Namespace) -> Answer:
    """List large folios. The value is a list of records, one for each folio, with the verdict of the path split."""
    listing = Listing(session, arguments.blocks)
    records = list(listing.records("split", is_thp, _Mapped(session.context).record))
    return Answer(records, records, incomplete=listing.incomplete)


HEADERS = ["pfn", "order", "type", "pmd", "pte", "pages mapped", "deferred", "refs", "expected", "extra", "split"]


def write(answer: Answer, out: TextIO) -> None:
    """Write a table of sizes and one of folios."""
    records = answer.value
    sizes = []
    for order in sorted({record["order"] for record in records}, reverse=True):
        these = [record for record in records if record["order"] == order]
        counts: list[Any] = [order, 1 << order, len(these), *(sum(c) for c in zip(*map(_counts, these)))]
        sizes.append([str(count) for count in counts])
    out.write(f"{len(records)} large folios\n")
    headers = ["order", "pages", "folios", "anon", "partially mapped", "deferred", "splittable"]
    write_table(sizes, headers, (), out)
    out.write("\n" * bool(records))
    write_table([_row(record) for record in records], HEADERS, ("type", "pages mapped", "deferred", "split"), out)
    write_incomplete(answer, out)


def _counts(record: Record) -> tuple[int, ...]:
    return (
        record["type"] == "anon",
        record["partially_mapped"] is True,
        record["deferred"] is True,
        record["verdict"] == "ok",
    )


def _row(record: Record) -> list[str]:
    pages = number(record["mapped_pages"])
    if record["partially_mapped"]:
        pages += " (partially)"
    counts = (number(record[name]) for name in ("refcount", "expected", "extra"))
    deferred = {True: "yes", False: "no", None: "-"}[record["deferred"]]
    split = {"ok": "yes"}.get(record["verdict"], record["reason"] or record["verdict"])
    return [
        f"{record['pfn']:#x}",
        str(record["order"]),
        record["type"],
        str(record["pmd_mappings"]),
        str(record["pte_mappings"]),
        pages,
        deferred,
        *counts,
        split,
    ]
