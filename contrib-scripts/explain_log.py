# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What is the matter with the page frames that the kernel log complains of?

Takes "migrating pfn … failed", "page dumped because" and "PFNs busy" from the log in the dump, or from a file, and
explains each page as it is in the dump: which checks refuse it, and how many of its references nobody explains. What
was only in the way for a moment is no longer.

    drgn -c VMCORE explain_log.py [FILE]
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path

from drgn import FaultError, get_default_prog
from drgn.helpers.linux.printk import get_dmesg

from drgn_thp.commands.memblocks import scan
from drgn_thp.errors import BadArgument
from drgn_thp.escape import printable
from drgn_thp.gates import find_path
from drgn_thp.ledger import explain
from drgn_thp.session import Session

FAILED = re.compile(r"migrating pfn ([0-9a-f]+) failed ret:(-?\d+)")
PAGE = re.compile(r"\bpage: ?\S+ .*\bpfn:0x([0-9a-f]+)")
DUMPED = re.compile(r"page dumped because: (.*)")
BUSY = re.compile(r"\[([0-9a-f]+), ([0-9a-f]+)\) PFNs busy")
PATHS = ("contig", "offline", "split")


def complaints(text: str) -> Counter[tuple[int, int | None, str]]:
    """Return what is complained of: page frames or ranges of them, with the words and how often."""
    found: Counter[tuple[int, int | None, str]] = Counter()
    page = None
    for line in text.splitlines():
        if match := FAILED.search(line):
            found[int(match[1], 16), None, f"migrating failed, ret {match[2]}"] += 1
        elif match := BUSY.search(line):
            found[int(match[1], 16), int(match[2], 16), "PFNs busy"] += 1
        elif (match := DUMPED.search(line)) and page is not None:
            found[page, None, f"dumped because: {match[1]}"] += 1
        elif match := PAGE.search(line):
            page = int(match[1], 16)
    return found


def main() -> None:
    session = Session.of(get_default_prog())
    kernel = session.context.kernel
    shift, paths = kernel.page_shift, [find_path(name).of(kernel) for name in PATHS]
    try:
        if sys.argv[1:]:
            text = Path(sys.argv[1]).read_text(encoding="utf-8", errors="backslashreplace")
        else:
            text = get_dmesg(session.context.prog).decode("utf-8", "backslashreplace")
    except (FaultError, LookupError, OSError) as error:
        sys.exit(f"the log cannot be read ({printable(str(error))}): name a file with it")
    print(f"{len(found := complaints(text))} complaints of pages in the log")
    for (pfn, end, what), times in found.items():
        pages = f"pfn {pfn:#x}" if end is None else f"pfns {pfn:#x}-{end - 1:#x}"
        print(f"{pages}: {printable(what)}{f', {times} times' if times > 1 else ''}")
        try:
            if end is None:
                records = next(iter(explain(session.context, [f"pfn:{pfn:#x}"], paths))).records
            else:
                asked = scan(session, PATHS[:1], [f"{pfn << shift:#x}-{(end << shift) - 1:#x}"], lists=True).value
                records = tuple(record for record in asked if pfn <= record["pfn"] < end)
        except (BadArgument, FaultError) as error:
            records = ()
            print(printable(f"  {error}"))
        for one in records:
            print(f"  pfn {one['pfn']:#x}, {printable(one['type'])}: {one['path']}: {one['reason'] or one['verdict']}")


main()
