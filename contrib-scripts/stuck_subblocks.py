# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Which sub-blocks of virtio-mem are stuck?

virtio-mem unplugs a memory block in sub-blocks, each by alloc_contig_range(): one refused folio keeps a whole sub-block
plugged. This lists those that are kept, the folios that keep them, and how much could be unplugged now.

    drgn -c VMCORE stuck_subblocks.py [BLOCK ...]
"""

import argparse
import sys

from drgn import get_default_prog

from drgn_thp.commands import virtio_mem
from drgn_thp.commands.model import write_incomplete
from drgn_thp.ledger import explain
from drgn_thp.session import Session


def main() -> None:
    session = Session.of(get_default_prog())
    answer = virtio_mem.ask(session, argparse.Namespace(blocks=sys.argv[1:]))
    if not answer.value:
        print("no memory of virtio-mem in this kernel")
        return
    stuck = unpluggable = 0
    for block in answer.value:
        if block["kind"] != "block":
            continue
        own = block["virtio_mem"]
        stuck += len(own["kept_by"])
        unpluggable += own["unpluggable"]
        print(f"memory{block['block']}: {len(own['kept_by'])} of {own['plugged']} plugged sub-blocks stuck")
        for keeper in own["kept_by"]:
            reasons = ", ".join(f"{name} {number}" for name, number in keeper["reasons"].items())
            print(f"  sub-block {keeper['sub_block']} at {keeper['start']:#x}: {reasons}")
            for explanation in explain(session.context, [f"pfn:{pfn:#x}" for pfn in keeper["folios"]], []):
                head = explanation.ledger
                print(f"    pfn {explanation.pfn:#x}: " + ", ".join(f"{name} {count}" for name, count in head if count))
    print(f"{stuck} sub-blocks stuck, {unpluggable >> 20} MiB could be unplugged")
    write_incomplete(answer, sys.stdout)


main()
