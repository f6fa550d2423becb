# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Why can this memory block not be taken offline?

For each block: what becomes of ``echo offline > /sys/devices/system/memory/memoryN/state``, which checks of the kernel
are in the way and for how long, the folios that they refuse, and what to do.

    drgn -c VMCORE why_not_offline.py [BLOCK ...]        # 32, 32-35 or 0x100000000-0x107ffffff; all if none
"""

import sys

from drgn import get_default_prog

from drgn_thp.commands.memblocks import scan
from drgn_thp.commands.model import write_incomplete
from drgn_thp.escape import printable
from drgn_thp.gates import find_reason
from drgn_thp.session import Session

LISTED = 10
MEANINGS = {
    "yes": "can be taken offline",
    "later": "only what ends by itself is in the way: try again",
    "blocks": "offlining sleeps until something ends, a signal does not help",
    "endless": "offlining never returns: it retries until a signal comes (kill the writer)",
    "no": "offlining fails",
    "offline": "is offline",
    "unknown": "cannot be told: too much of it cannot be read",
}


def main() -> None:
    session = Session.of(get_default_prog())
    answer = scan(session, ["offline"], sys.argv[1:], lists=False)
    refused = scan(session, ["offline"], sys.argv[1:], lists=True).value
    for block in answer.value:
        path = block["paths"]["offline"]
        verdict = MEANINGS[path["verdict"]] + (f" ({path['answer']})" if path["answer"] else "")
        print(f"memory{block['block']}: {verdict}")
        folios = [folio for folio in refused if folio["block"] == block["block"]]
        for name, number in path["reasons"].items():
            reason = find_reason(name)
            these = [folio for folio in folios if folio["reason"] == name]
            print(f"  {number} folios: {name}: {reason.meaning}")
            for folio in these[:LISTED]:
                known = (
                    ""
                    if folio["extra"] is None
                    else f", {folio['extra']} of {folio['refcount']} references unexplained"
                )
                what = f"order {folio['order']}, {printable(folio['type'])}{known} ({folio['duration']})"
                print(f"    pfn {folio['pfn']:#x}, {what}")
            if len(these) > LISTED:
                print(f"    ... and {len(these) - LISTED} more")
            print(f"    {reason.advice}")
    write_incomplete(answer, sys.stdout)


main()
