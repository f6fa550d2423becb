# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Does the balance of KSM's pages hold, page by page?

write_protect_page() merges a page only if its references are its mappings, one for the swap cache, and the caller's
own. This shows that sum for every page that KSM shares: what is left over is somebody who holds the page.

    drgn -c VMCORE ksm_balance.py [BLOCK ...]
"""

import argparse
import sys

from drgn import get_default_prog

from drgn_thp.commands import ksm
from drgn_thp.commands.model import write_incomplete
from drgn_thp.session import Session


def main() -> None:
    answer = ksm.ask(Session.of(get_default_prog()), argparse.Namespace(blocks=sys.argv[1:]))
    held = 0
    for record in answer.value:
        balance = record["balance"]
        held += balance != 0
        print(
            f"pfn {record['pfn']:#x}: {record['refcount']} references - {record['total_mapcount']} mappings"
            f" - {record['swapcache_references']} swap cache - {record['batches']} batches = {balance}"
            + (" HELD" if balance > 0 else " MISSING" if balance < 0 else "")
        )
    shared = len(answer.value)
    sharing = sum(record["total_mapcount"] for record in answer.value) - shared
    print(f"{shared} pages shared, {sharing} pages saved; the balance of {held} does not hold")
    write_incomplete(answer, sys.stdout)


main()
