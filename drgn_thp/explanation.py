# SPDX-License-Identifier: LGPL-2.1-or-later
"""What ``folio`` shows to people: everything about one folio on a page of text."""

from __future__ import annotations

from typing import TextIO

from tabulate import tabulate

from .escape import printable
from .holders.balance import Sheet
from .holders_text import process, write_advice, write_chains
from .holdings import advice
from .ledger import Explanation
from .page_owner import Allocation

FACTS = ("type", "mapping", "flags", "zone", "node", "block", "refcount", "batches", "pins")


def write_explanation(explanation: Explanation, out: TextIO) -> None:
    """Write facts, formulas, the ledger, and the verdict of every path with all the checks that refuse."""
    record = explanation.records[0]
    head, order = record["pfn"], record["order"]
    out.write(f"{printable(explanation.asked)}: page frame {explanation.pfn:#x}")
    if order:
        out.write(f", page {explanation.pfn - head} of the folio of {1 << order} pages at {head:#x}")
    out.write("\n\n")
    rows = [[name, _shown(record[name])] for name in FACTS]
    out.write(tabulate(rows, tablefmt="plain", disable_numparse=True) + "\n\n")
    rows = [[name + "()", str(value)] for name, value in explanation.formulas]
    out.write(tabulate(rows, tablefmt="plain", disable_numparse=True, colalign=("left", "right")) + "\n\n")
    if explanation.ledger:
        out.write("references\n")
        rows = [[name, str(value)] for name, value in explanation.ledger if value or name == "UNEXPLAINED"]
        rows.append(["refcount", str(record["refcount"])])
        out.write(tabulate(rows, tablefmt="plain", disable_numparse=True, colalign=("left", "right")) + "\n\n")
    else:
        out.write("references: the kernel's own page, mm does not say how many it should have\n\n")
    if explanation.allocation is not None:
        _write_allocation(explanation.allocation, out)
    if explanation.sheet is not None:
        _write_sheet(explanation.sheet, out)
        write_chains(record.get("chains") or [], out)
        _write_mappers(explanation, out)
    reasons = {}
    for path, refusals in explanation.refusals:
        verdict = next(record["verdict"] for record in explanation.records if record["path"] == path)
        out.write(f"{path}: {verdict}\n")
        for refusal in refusals:
            wrongly = ", wrongly" if refusal.wrongly else ""
            out.write(f"    {refusal.reason} ({refusal.duration}{wrongly}) by {refusal.kernel}\n")
            reasons[refusal.reason] = refusal.advice
    if reasons:
        out.write("\n" + "".join(f"{reason}: {text}\n" for reason, text in reasons.items()))


def _write_allocation(allocation: Allocation, out: TextIO) -> None:
    """Write who allocated the folio, and where in the kernel."""
    out.write("allocated")
    if allocation.pid is not None:
        out.write(f" by {allocation.pid} ({printable(allocation.comm or '')})")
    if allocation.seconds is not None:
        out.write(f" at {allocation.seconds:.6f} s")
    out.write(f", order {allocation.order}, gfp_mask {allocation.gfp_mask:#x}\n")
    out.write("".join(f"    {printable(function)}\n" for function in allocation.stack) + "\n")


def _write_sheet(sheet: Sheet, out: TextIO) -> None:
    """Write who holds the folio, and what is left then."""
    out.write("held by\n")
    rows = []
    for record in sheet.records():
        words = (", inferred" * (not record["exact"]), ", lets go by itself" * record["transient"])
        pins = f"{record['pins']} pinned" if record["pins"] else ""
        what = f"{printable(record['kind'])}: {printable(record['owner'])}{''.join(words)}"
        rows.append([what, process(record), pins, str(record["refs"])])
    rows.append(["UNEXPLAINED", "", "", str(sheet.unexplained)])
    align = ("left", "left", "left", "right")
    out.write(tabulate(rows, tablefmt="plain", disable_numparse=True, colalign=align) + "\n")
    if sheet.overdrawn:
        out.write("more was found than there is: an error of drgn_thp\n")
    write_advice(advice(held.kind for held, _, _ in sheet.holders), out)
    out.write("\n")


def _write_mappers(explanation: Explanation, out: TextIO) -> None:
    """Write who maps the folio, and where."""
    if not explanation.mappers:
        return
    out.write("mapped by\n")
    rows = []
    for record in explanation.mappers:
        who = "-" if record["pid"] is None else f"{record['pid']} ({printable(record['comm'])})"
        pages = f"page {record['page']}" if record["pages"] == 1 else f"{record['pages']} pages from {record['page']}"
        state = "" if record["state"] == "mapped" else f", {record['state']}"
        where = f"{record['address']:#x} ({printable(record['what'] or 'not in any VMA')}{state})"
        rows.append([who, where, pages, printable(record["container"] or record["cgroup"] or "")])
    out.write(tabulate(rows, tablefmt="plain", disable_numparse=True) + "\n")
    if explanation.more_mappers:
        out.write(f"and {explanation.more_mappers} more\n")
    out.write("\n")


def _shown(value: object) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value)) or "-"
    return "-" if value is None else printable(str(value))
