# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Which THPs does the check of kernels without 829ae0f81ce0 misjudge?

isolate_migratepages_block() compared the references of a whole THP with the mappings of its first page, and so took
healthy THPs for pinned. The fix (in v6.1) was first sent with the line "Fixes: 3917c80280c9 (v5.8+)", which made it
common, then with "Fixes: 1da2f328fa64 (v5.7+)", which let THPs reach the check at all. This lists the THPs here that
the old check refuses, which of the two changes each needs, and whether this kernel has the bug.

    drgn -c VMCORE misjudged_thps.py [BLOCK ...]
"""

import re
import sys

from drgn import get_default_prog
from drgn.helpers.linux.mm import pfn_to_page

from drgn_thp import read_folio
from drgn_thp.commands.memblocks import scan
from drgn_thp.commands.model import write_incomplete
from drgn_thp.context import Context
from drgn_thp.escape import printable
from drgn_thp.session import Session

V57 = '1da2f328fa64 ("mm,thp,compaction,cma: allow THP migration for CMA allocations") (v5.7+)'
V58 = '3917c80280c9 ("thp: change CoW semantics for anon-THP") (v5.8+)'


def main() -> None:
    prog = get_default_prog()
    session = Session.of(prog)
    kernel = session.context.kernel
    known = re.match(r"(\d+)\.(\d+)", kernel.release)
    if known is None:
        sys.exit("the release of this kernel cannot be read, so no line can be said to apply")
    version = (int(known[1]), int(known[2]))
    # The same memory, judged as if this kernel had the old check.
    old = Session(Context.of(prog, "old"), session.types_source, session.notes, session.slim)
    answer = scan(old, ["contig"], sys.argv[1:], lists=True)
    misjudged = [record for record in answer.value if "racy-pin-check" in (record["reason"], *record["also"])]
    copied = 0
    for record in misjudged:
        # Mapped as a whole by one process and page by page by another: since v5.8 so it is left by copy on write.
        by_cow = bool(read_folio(pfn_to_page(prog, record["pfn"])).entire_mapcount[0])
        copied += by_cow
        print(
            f"pfn {record['pfn']:#x}: {record['refcount']} references, {record['total_mapcount']} mappings,"
            f" {record['page_mapcount']} of the first page: {'v5.8 line' if by_cow else 'v5.7 line'}"
        )
    print(f"{len(misjudged)} THPs that nobody holds are refused by the old check, {copied} of them copied on write")
    print(printable(f"Linux {kernel.release}: {kernel.racy_check.source}"))
    if not kernel.racy_check.old:
        print("neither Fixes line applies: this kernel has the fix, or never had the check")
        return
    for since, line, seen in (((5, 7), V57, bool(misjudged)), ((5, 8), V58, copied > 0)):
        applies = "applies" if version >= since else "does not apply: the kernel is older"
        print(f"Fixes: {line}: {applies}{' (seen here)' if seen and version >= since else ''}")
    write_incomplete(answer, sys.stdout)


main()
