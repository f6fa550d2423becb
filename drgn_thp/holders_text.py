# SPDX-License-Identifier: LGPL-2.1-or-later
"""Holders for people: in a word for a row of a table, grouped for a report, and what makes each kind let go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TextIO

from tabulate import tabulate

from .escape import printable

Record = dict[str, Any]
SHOWN = 20
"""Groups that a report lists: there may be thousands, and the biggest come first."""


def process(record: Record) -> str:
    """Return who a holder is: process and descriptor, or what there is instead."""
    if record["pid"] is None:
        if record["cpu"] is not None:
            return f"CPU {record['cpu']}"
        return printable(record["device"] or "-")
    who = f"{record['pid']} ({printable(record['comm'])})"
    if record["processes"] > 1:
        who += f" and {record['processes'] - 1} more"
    return who if record["fd"] is None else f"{who} fd {record['fd']}"


def who(record: Record) -> str:
    """Return for a folio's record who holds it, in short: the biggest holder, and what nobody was found for."""
    if record["holders"] is None:
        return "-"
    words = []
    for holder in record["holders"][:1]:
        more = len(record["holders"]) - 1
        words.append(f"{_kind(holder)} {process(holder)}" + (f" +{more}" if more else ""))
    if record["unexplained"] > 0:
        words.append(f"UNEXPLAINED {record['unexplained']}")
    return ", ".join(words) or "-"


def _kind(record: Record) -> str:
    return printable(record["kind"]) + (" (transient)" if record["transient"] else "")


def write_advice(advice: dict[str, str], out: TextIO) -> None:
    """Write a line for each kind of holder."""
    out.write("".join(f"{printable(kind)}: {printable(frees)}\n" for kind, frees in advice.items()))


def write_chains(chains: Sequence[Record], out: TextIO) -> None:
    """Write what points to folios that are not explained: what leads where, and never that anybody holds them."""
    for chain in chains:
        who = "no file" if chain["pid"] is None else f"{chain['pid']} ({printable(chain['comm'])})"
        if chain["fd"] is not None:
            who += f" fd {chain['fd']}"
        elif chain["file"]:
            who = "a file that no process has open"
        folios = f" to {chain['folios']} folios" if "folios" in chain else ""
        via = " <- ".join(map(printable, chain["via"]))
        out.write(f"chain found{folios} (confidence: {chain['confidence']}): {via} <- {who}\n")


def write_groups(holders: Record, out: TextIO) -> None:
    """Write who holds most of the refused folios, and what is unexplained of all of them."""
    out.write(f"\nheld, of {holders['folios']} refused folios of processes and files: {holders['held']}\n")
    rows = []
    for group in holders["groups"][:SHOWN]:
        blocks = ",".join(map(str, group["blocks"][:4])) + (",..." if len(group["blocks"]) > 4 else "")
        owner = process(group) if group["owner"] is None else printable(group["owner"])
        row = [_kind(group), owner, printable(group["device"] or "-"), printable(group["cgroup"] or "-")]
        rows.append([*row, *(str(group[name]) for name in ("folios", "bytes", "refs", "pins")), blocks or "-"])
    if rows:
        headers = ["holder", "process", "device", "cgroup", "folios", "bytes", "refs", "pins", "blocks"]
        align = ["left"] * 4 + ["right"] * 4 + ["left"]
        out.write(tabulate(rows, headers, tablefmt="simple", disable_numparse=True, colalign=align) + "\n")
    more = len(holders["groups"]) - len(rows) + holders["more_groups"]
    if more:
        out.write(f"... and {more} more\n")
    out.write(f"UNEXPLAINED: {holders['unexplained']} references of {holders['unexplained_folios']} folios\n")
    write_chains((holders["chains"] or [])[:SHOWN], out)
    if holders["over_attributed"]:
        out.write(
            f"OVER-ATTRIBUTED: {holders['over_attributed']} references of {holders['over_attributed_folios']} folios:"
            " more was found than there is\n"
        )
    write_advice(holders["advice"], out)
