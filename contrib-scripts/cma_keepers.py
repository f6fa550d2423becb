# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What keeps this CMA area?

An allocation from a CMA area has to move out whatever has been put there meanwhile. This finds the pageblocks of CMA
areas, and lists what alloc_contig_range() would refuse to move out of each; or out of any range of addresses.

    drgn -c VMCORE cma_keepers.py [START-END ...]        # 0x100000000-0x107ffffff; all CMA areas if none
"""

from __future__ import annotations

import sys

import numpy
from drgn import FaultError, get_default_prog

from drgn_thp.commands.memblocks import scan
from drgn_thp.commands.model import write_incomplete
from drgn_thp.context import Context
from drgn_thp.escape import printable
from drgn_thp.session import Session


def areas(context: Context) -> tuple[list[tuple[int, int]], int]:
    """Return the ranges of page frames whose pageblocks are CMA's, and how many sections could not be read."""
    size, order, unreadable = context.sections.pages_per_section, context.pageblocks.pageblock_order, 0
    ranges: list[tuple[int, int]] = []
    for position, number in enumerate(context.sections.number.tolist()):
        try:
            odd = context.pageblocks.odd(position)
        except FaultError:
            unreadable += 1
            continue
        for index in [] if odd is None else numpy.flatnonzero(odd.cma).tolist():
            pfn = number * size + (index << order)
            start = ranges.pop()[0] if ranges and ranges[-1][1] == pfn else pfn
            ranges.append((start, pfn + (1 << order)))
    return ranges, unreadable


def main() -> None:
    session = Session.of(get_default_prog())
    shift = session.context.kernel.page_shift
    given = [tuple(int(text, 0) for text in argument.split("-")) for argument in sys.argv[1:]]
    asked = [(first >> shift, (last >> shift) + 1) for first, last in given]
    if not asked:
        asked, unreadable = areas(session.context)
        print(f"{len(asked)} ranges of this kernel's memory are CMA's")
        if unreadable:
            print(f"INCOMPLETE: the pageblocks of {unreadable} sections {printable(session.missing)}")
    for start, end in asked:
        answer = scan(session, ["contig"], [f"{start << shift:#x}-{(end << shift) - 1:#x}"], lists=True)
        inside = [record for record in answer.value if start <= record["pfn"] < end]
        print(f"{start << shift:#x}-{(end << shift) - 1:#x}: {len(inside)} folios would not be moved")
        for record in inside:
            print(
                f"  pfn {record['pfn']:#x}, order {record['order']}, {printable(record['type'])}: {record['reason']}"
                f" ({record['duration']}), {record['extra']} of {record['refcount']} references unexplained"
            )
        write_incomplete(answer, sys.stdout)


main()
