# SPDX-License-Identifier: LGPL-2.1-or-later
"""``swapcache``: folios in the swap cache."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TextIO

from ..describe import Record
from ..folios import Folios
from ..formulas import folio_test_swapcache, swapcache_references
from ..session import Session
from .model import BLOCKS, Answer, Argument, Listing, number, write_incomplete, write_table

DESCRIPTION = (
    "List folios in the swap cache, with what holds their references: the cache itself (one for each page), mappings,"
    " and the rest."
)
# include/linux/swapops.h: the type is above the offset, in an entry of an xarray without its lowest bit.
SWP_TYPE_SHIFT = 58


def arguments() -> Sequence[Argument]:
    """Return the options."""
    return (BLOCKS,)


def _record(f: Folios, i: int) -> Record:
    entry = int(f.private[i])
    return {
        "kind": "swapcache",
        "swap_type": entry >> SWP_TYPE_SHIFT,
        "swap_offset": entry & ((1 << SWP_TYPE_SHIFT) - 1),
        "swapcache_references": int(swapcache_references(f)[i]),
    }


def ask(session: Session, arguments: argparse.Namespace) -> Answer:
    """List the swap cache. The value is a list of records, one for each folio, with the verdict of contig."""
    listing = Listing(session, arguments.blocks)
    records = list(listing.records("contig", folio_test_swapcache, _record))
    return Answer(records, records, incomplete=listing.incomplete)


def write(answer: Answer, out: TextIO) -> None:
    """Write a table of folios."""
    rows = []
    for record in answer.value:
        names = ("refcount", "swapcache_references", "total_mapcount", "batches", "extra")
        busy = [flag for flag in ("locked", "dirty", "writeback") if flag in record["flags"]]
        slot = f"{record['swap_type']}:{record['swap_offset']:#x}"
        counts = (number(record[name]) for name in names)
        rows.append([f"{record['pfn']:#x}", str(record["order"]), slot, *counts, " ".join(busy) or "-"])
    pages = sum(1 << record["order"] for record in answer.value)
    out.write(f"{len(rows)} folios of {pages} pages in the swap cache\n")
    headers = ["pfn", "order", "slot", "refs", "cache", "mapped", "batches", "extra", "flags"]
    write_table(rows, headers, ("flags",), out)
    write_incomplete(answer, out)
