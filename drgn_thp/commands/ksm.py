# SPDX-License-Identifier: LGPL-2.1-or-later
"""``ksm``: pages that KSM shares."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TextIO

from ..describe import Record
from ..folios import Folios
from ..formulas import PageKsm, swapcache_references, write_protect_page_balance
from ..session import Session
from .model import BLOCKS, Answer, Argument, Listing, number, write_incomplete, write_table

DESCRIPTION = (
    "List pages that KSM shares between processes, with the balance of write_protect_page(): references less mappings"
    " less the swap cache. Whatever is left is somebody who holds the page, and keeps it from being migrated or merged."
)


def arguments() -> Sequence[Argument]:
    """Return the options."""
    return (BLOCKS,)


def _record(f: Folios, i: int) -> Record:
    return {
        "kind": "ksm",
        "swapcache_references": int(swapcache_references(f)[i]),
        "balance": int(write_protect_page_balance(f)[i]),
    }


def ask(session: Session, arguments: argparse.Namespace) -> Answer:
    """List what KSM shares. The value is a list of records, one for each page, with the verdict of contig."""
    listing = Listing(session, arguments.blocks)
    records = list(listing.records("contig", PageKsm, _record))
    return Answer(records, records, incomplete=listing.incomplete)


def write(answer: Answer, out: TextIO) -> None:
    """Write a table of pages."""
    rows = []
    for record in answer.value:
        names = ("refcount", "total_mapcount", "swapcache_references", "batches", "balance")
        counts = (number(record[name]) for name in names)
        rows.append([f"{record['pfn']:#x}", *counts, record["reason"] or record["verdict"]])
    mapped = sum(record["total_mapcount"] for record in answer.value)
    out.write(f"{len(rows)} pages shared by KSM, mapped {mapped} times\n")
    headers = ["pfn", "refs", "mapped", "swap cache", "batches", "balance", "contig"]
    write_table(rows, headers, ("contig",), out)
    write_incomplete(answer, out)
