# SPDX-License-Identifier: LGPL-2.1-or-later
"""
How fast the scan is, as ratios that hold on any machine: ``python -m tests.bench VMCORE VMLINUX``.

Yardsticks are the reading of the same struct pages in the same pieces, and the loop over pages that drgn's own helpers
invite to. Times are of this process's processor time, the least of some rounds, with the core in the page cache.
"""

from __future__ import annotations

import argparse
import resource
import time
from typing import Callable

from drgn import Object, Program
from drgn.helpers.linux.mm import PageCompound, PageLRU, PageSlab, PageTail, compound_order, page_flags, pfn_to_page

from drgn_thp.blocks import read_blocks
from drgn_thp.context import Context
from drgn_thp.gates import Reason, find_path
from drgn_thp.scan import Scan
from drgn_thp.target import TargetSpec, open_target

PATHS = ("contig", "offline")
PIECE_BYTES = 1 << 20
LOOP_PAGES = 2000


def timed(function: Callable[[], object]) -> float:
    """Return the processor time of a call."""
    start = time.process_time()
    function()
    return time.process_time() - start


def ranges(context: Context) -> list[tuple[int, int]]:
    """Return the memmap in pieces of 1 MiB."""
    size = PIECE_BYTES // context.memmap.size
    pieces = []
    for start, end in context.sections.runs():
        while start < end:
            count = min(size - start % size, end - start)
            pieces.append((start, count))
            start += count
    return pieces


def read_all(context: Context) -> None:
    """Merely read every struct page."""
    read, address, size = context.prog.read, context.memmap.page_address, context.memmap.size
    for pfn, count in ranges(context):
        read(address(pfn), count * size)


def scan_all(context: Context, prog: Program) -> dict[str, int]:
    """Scan everything, the walk over memory blocks included; return how many folios are refused by path."""
    blocks, _ = read_blocks(prog, context.sections)
    refused: dict[str, int] = {}
    scan = Scan(context, [find_path(name) for name in PATHS], Reason.is_listed)
    for census in scan.blocks(blocks):
        for name, counts in census.paths.items():
            refused[name] = refused.get(name, 0) + counts.refused
    return refused


def helper_loop(prog: Program, pfns: range) -> int:
    """Look at pages one by one with drgn's helpers: flags, kind, order, reference and map count."""
    found = 0
    for pfn in pfns:
        page: Object = pfn_to_page(prog, pfn)
        if PageTail(page):
            continue
        flags = page_flags(page)
        refcount = page._refcount.counter.value_()
        mapcount = page._mapcount.counter.value_() + 1
        if refcount and PageLRU(page) and not PageSlab(page) and flags:
            order = int(compound_order(page)) if PageCompound(page) else 0
            found += refcount > mapcount + order
    return found


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("core")
    parser.add_argument("symbols")
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    target = open_target(TargetSpec(core=arguments.core, symbols=(arguments.symbols,), default_symbols="main"))
    start = time.process_time()
    context = Context.of(target.prog)
    opening = time.process_time() - start
    pieces = ranges(context)
    pages = sum(count for _, count in pieces)
    read_all(context)  # into the page cache
    before = peak_mib()
    refused = scan_all(context, target.prog)
    memory = peak_mib() - before
    # In turn, so that a change of the machine's speed meets both.
    rounds = [
        (timed(lambda: read_all(context)), timed(lambda: scan_all(context, target.prog)))
        for _ in range(arguments.rounds)
    ]
    reading, scanning = (min(times) for times in zip(*rounds))
    ratios = sorted(scan / read for read, scan in rounds)
    step = max(pages // LOOP_PAGES, 1)
    looked_at = 0
    start = time.process_time()
    for pfn, count in pieces:
        sample = range(pfn, pfn + count, step)
        helper_loop(target.prog, sample)
        looked_at += len(sample)
    looping = (time.process_time() - start) / looked_at * pages
    print(f"{pages} struct pages, {pages * context.memmap.size >> 20} MiB of memmap; refused: {refused}")
    print(f"context of the target     {opening:8.3f} s")
    print(f"reading                   {reading:8.3f} s  {reading / pages * 1e9:8.1f} ns a page")
    print(f"scan                      {scanning:8.3f} s  {scanning / pages * 1e9:8.1f} ns a page")
    print(
        f"loop with drgn's helpers  {looping:8.1f} s  {looping / pages * 1e9:8.1f} ns a page ({looked_at} pages tried)"
    )
    middle = ratios[len(ratios) // 2]
    print(f"scan / reading            {scanning / reading:8.2f}  (round by round: median {middle:.2f})")
    print(f"loop / scan               {looping / scanning:8.0f}")
    print(f"peak memory of the scan   {memory:8.1f} MiB above the opened Program")


if __name__ == "__main__":
    main()
