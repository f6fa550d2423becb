# SPDX-License-Identifier: LGPL-2.1-or-later
"""``drgn-thp demo``: the report of a real kernel's memory that comes with the package, with what was planted in it."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BadArgument
from .common import CLEAN, block_filter

if TYPE_CHECKING:
    from ..render.text import Record
    from ..target import Target

# The second has the other kernels, in a checkout.
_PACKAGE = Path(__file__).parent.parent
_PLACES = (_PACKAGE / "data", _PACKAGE.parent / "tests" / "fixtures")
_CORE, _SCENARIOS = "vmcore.elf.gz", "scenarios.json"

MEANINGS = {
    "base_held": "a page in a pipe (vmsplice), neighbours are not",
    "thp_held": "a THP, one page of it in a pipe",
    "thp_cow_held": "a THP shared after fork, partly copied on write, one page in a pipe",
    "mthp_held": "a 64 KiB folio, one page of it in a pipe",
    "tmpfs_thp_held": "a THP of a file in tmpfs, one page in a pipe",
    "ext4_held": "a page of a file, spliced into a pipe",
    "hugetlb_held": "a huge page of the hugetlb pool, one page of it in a pipe",
    "thp_cow": "a THP shared after fork, partly copied on write: nobody else holds it",
    "thp_cow_head": "a THP shared after fork, its first page copied: nobody else holds it",
    "thp_pte": "a THP mapped by page table entries: nobody else holds it",
    "thp_pte_3procs": "a THP mapped by page table entries of three processes",
    "thp_partial": "a THP, half of it unmapped",
    "thp_partial_head": "a THP, its first page unmapped",
    "mthp": "a 64 KiB folio, nobody else holds it",
}


def _fixtures() -> dict[str, Path]:
    """Return the bundled dumps that can be found, by kernel; those of the package itself come first."""
    found = {}
    for place in reversed(_PLACES):
        # Asked for with every command, for the help: a checkout that may not be read must not stop the others.
        with contextlib.suppress(OSError):
            found.update({path.parent.name: path.parent for path in place.glob(f"*/{_CORE}")})
    return dict(sorted(found.items(), key=lambda item: (item[1].parent != _PLACES[0], item[0])))


def add(commands: Any) -> None:
    """Add the subcommand to the parser."""
    parser = commands.add_parser(
        "demo",
        help="the report of a small dump that comes with this package",
        description="Print the report of a small dump of a real kernel in which folios were planted in known states,"
        " and name them. Needs no dump and no debugging symbols of your own.",
        epilog="exit status: 0 shown, 3 failed",
    )
    parser.add_argument("kernel", nargs="?", metavar="KERNEL", help=f"one of {', '.join(_fixtures())}")
    parser.add_argument("--debug", action="store_true", help="show where an error comes from")


def run(arguments: argparse.Namespace) -> int:
    """Show a bundled dump as its kernel judges it, and as those before 6.1 would."""
    from ..target import TargetSpec, open_target

    found = _fixtures()
    name = arguments.kernel or next(iter(found), "")
    if name not in found:
        raise BadArgument(f"no dump of Linux {name or 'any kernel'} here; there are: {', '.join(found) or 'none'}")
    core = found[name] / _CORE
    planted = json.loads((found[name] / _SCENARIOS).read_text(encoding="utf-8"))
    target = open_target(TargetSpec(core=str(core), default_symbols="none"))
    command = f"$ drgn-thp report -c {core} --path contig --block {planted['blocks']}"
    out = sys.stdout
    out.write(f"{command}\n\n")
    _show(target, planted, None)
    out.write(
        "\nWhat if this kernel had the check of those before 6.1 (829ae0f81ce0)? That one compares all references of\n"
        f"a THP with the mappings of its first page, and refuses THPs that nobody holds.\n\n"
        f"{command} --racy-check old\n\n"
    )
    _show(target, planted, "old")
    return CLEAN


def _show(target: Target, planted: dict[str, Any], racy_check: str | None) -> None:
    from ..context import Context
    from ..gates import find_path
    from ..render.text import render
    from ..report import Question, Report

    context = Context.of(target.prog, racy_check)
    question = Question([find_path("contig")], block_filter([planted["blocks"]], context))
    report = Report(context, question, target.types_source, (), slim=True)
    records = list(report.records())
    render((record for record in records if record["kind"] != "folio"), sys.stdout, 0)
    sys.stdout.write("\nrefused on contig, and what had been planted there:\n")
    _folios([record for record in records if record["kind"] == "folio"], planted["folios"])


def _folios(records: list[Record], names: dict[str, str]) -> None:
    from tabulate import tabulate

    rows = []
    for record in records:
        name = names.get(hex(record["pfn"]), "-")
        counts = [str(record[field]) for field in ("order", "refcount", "expected", "extra")]
        reason = record["reason"] + (" (wrongly)" if record["wrongly_refused"] else "")
        rows.append([hex(record["pfn"]), *counts, reason, name, MEANINGS.get(name, "-")])
    headers = ["pfn", "order", "refs", "expected", "extra", "reason", "planted", "what it is"]
    align = ("right",) * 5 + ("left",) * 3
    sys.stdout.write(tabulate(rows, headers, "simple", disable_numparse=True, colalign=align) + "\n")
