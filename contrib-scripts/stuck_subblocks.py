# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Which sub-blocks of virtio-mem are stuck?

virtio-mem unplugs a memory block in sub-blocks, each by alloc_contig_range(): one refused folio keeps a whole sub-block
plugged. This lists those of them with folios that would be refused, and why; and how much could be unplugged now.

    drgn -c VMCORE stuck_subblocks.py [--unit BYTES] [BLOCK ...]
"""

import argparse
from collections import defaultdict

from drgn import get_default_prog

from drgn_thp.commands.memblocks import scan
from drgn_thp.session import Session


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--unit", type=lambda text: int(text, 0), help="size of a sub-block, if it is not a pageblock")
    parser.add_argument("blocks", nargs="*")
    arguments = parser.parse_args()
    session = Session.of(get_default_prog())
    kernel, ranges = session.context.kernel, session.context.resources.virtio_mem
    if not ranges:
        print("no memory of virtio-mem in this kernel")
        return
    unit = (arguments.unit or kernel.page_size << kernel.pageblock_order) >> kernel.page_shift
    folios = scan(session, ["contig"], arguments.blocks, lists=True)
    blocks = scan(session, ["contig"], arguments.blocks, lists=False).value
    stuck = defaultdict(list)
    for record in folios.value:
        # A large folio may reach into several sub-blocks.
        for number in range(record["pfn"] // unit, (record["pfn"] + (1 << record["order"]) - 1) // unit + 1):
            stuck[number].append(record)
    total = 0
    for block in blocks:
        if not any(start <= block["start_pfn"] < end for start, end in ranges) or block["state"] == "offline":
            continue
        numbers = range(block["start_pfn"] // unit, block["end_pfn"] // unit)
        mine = [number for number in numbers if number in stuck]
        total += len(numbers)
        print(f"memory{block['block']}: {len(mine)} of {len(numbers)} sub-blocks stuck")
        for number in mine:
            print(f"  sub-block {number - numbers.start} at {number * unit << kernel.page_shift:#x}")
            for record in stuck[number]:
                print(f"    pfn {record['pfn']:#x}, order {record['order']}, {record['type']}: {record['reason']}")
    print(f"{total} sub-blocks of {unit << kernel.page_shift >> 10} KiB; memory of the kernel itself is not listed")
    for what in folios.incomplete:
        print(f"INCOMPLETE: {what}")


main()
