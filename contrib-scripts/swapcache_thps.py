# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Which THPs are in the swap cache, and what holds their references?

The swap cache has a reference for each page of a THP; whoever counts one for the folio finds 511 too many. This shows
the sum for each, what is left over, and whether the THP could be migrated or split.

    drgn -c VMCORE swapcache_thps.py [BLOCK ...]
"""

import argparse
import sys

from drgn import get_default_prog
from drgn.helpers.linux.mm import pfn_to_page

from drgn_thp import migration_verdict
from drgn_thp.commands import swapcache
from drgn_thp.commands.model import write_incomplete
from drgn_thp.session import Session


def main() -> None:
    prog = get_default_prog()
    answer = swapcache.ask(Session.of(prog), argparse.Namespace(blocks=sys.argv[1:]))
    large = [record for record in answer.value if record["order"] > 0]
    print(f"{len(large)} THPs in the swap cache, and {len(answer.value) - len(large)} folios of one page")
    for record in large:
        page = pfn_to_page(prog, record["pfn"])
        terms = {
            "swap cache": record["swapcache_references"],
            "mappings": record["total_mapcount"],
            "batches": record["batches"],
            "UNEXPLAINED": record["extra"],
        }
        print(f"pfn {record['pfn']:#x}, order {record['order']}, slot {record['swap_type']}:{record['swap_offset']:#x}")
        print("  " + " + ".join(f"{name} {count}" for name, count in terms.items()) + f" = {record['refcount']}")
        # The sum must be right, or a formula of ours is wrong.
        assert sum(terms.values()) == record["refcount"]
        for path in ("contig", "offline", "split"):
            print(f"  {path}: {migration_verdict(page, path)}")
    write_incomplete(answer, sys.stdout)


main()
