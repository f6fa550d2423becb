# SPDX-License-Identifier: LGPL-2.1-or-later
"""Text for people: a table of memory blocks, then the refused folios, then what is not known."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TextIO

from tabulate import tabulate

from ..escape import printable
from ..holders_text import who, write_groups

Record = dict[str, Any]
TOP_REASONS = 3


def render(records: Iterable[Record], out: TextIO, limit: int) -> None:
    """
    Write a report, or the lines of ``folio``.

    :param limit: How many refused folios to list per path; 0 for all
    """
    blocks: list[Record] = []
    folios: dict[str, list[Record]] = {}
    left_out: dict[str, int] = {}
    summary: Record | None = None
    devices: list[Record] = []
    for record in records:
        if record["kind"] == "block":
            blocks.append(record)
        elif record["kind"] == "folio":
            kept = folios.setdefault(record["path"], [])
            if limit and len(kept) >= limit:
                left_out[record["path"]] = left_out.get(record["path"], 0) + 1
            else:
                kept.append(record)
        elif record["kind"] == "virtio_mem":
            devices.append(record)
        else:
            summary = record
    if summary is not None:
        _head(summary, out)
        for path in summary["paths"]:
            _blocks(path, blocks, summary, out)
            _folios(path, folios.get(path, []), left_out.get(path, 0), out)
            _confirmed(path, summary, out)
        if summary["holders"] is not None:
            write_groups(summary["holders"], out)
        for device in devices:
            _device(device, blocks, out)
        _unknown(summary, out)


def _table(rows: list[list[str]], headers: list[str], right: str = "") -> str:
    align = ["right" if header in right.split() else "left" for header in headers]
    return tabulate(rows, headers, tablefmt="simple", disable_numparse=True, colalign=align if rows else None)


def _head(summary: Record, out: TextIO) -> None:
    racy = summary["racy_check"]
    out.write(f"Linux {printable(summary['release'])}, types from {printable(summary['types'])}\n")
    out.write(
        f"isolate_migratepages_block() is taken to compare with {racy['compares_with']}():"
        f" {printable(racy['decided_by'])}{' (in doubt)' if racy['doubtful'] else ''}\n"
    )


def _range(block: Record) -> str:
    return f"{block['start']:#x}-{block['end'] - 1:#x}"


def _reasons(reasons: dict[str, int]) -> str:
    top = [f"{name} {number}" for name, number in list(reasons.items())[:TOP_REASONS]]
    more = len(reasons) - TOP_REASONS
    return ", ".join(top) + (f", {more} more" if more > 0 else "")


def _blocks(path: str, blocks: list[Record], summary: Record, out: TextIO) -> None:
    rows = []
    for block in blocks:
        counts = block["paths"][path]
        verdict = (counts["verdict"] or "-") + (f" ({counts['answer']})" if counts["answer"] else "")
        rows.append(
            [
                "-" if block["block"] is None else str(block["block"]),
                _range(block),
                printable(block["state"]) + (" (derived)" if block["derived"] else ""),
                ",".join(map(printable, block["zones"])) or "-",
                ",".join(map(str, block["nodes"])) or "-",
                str(block["folios"]),
                str(counts["refused"]),
                _reasons(counts["reasons"]) or "-",
                verdict,
            ]
        )
    wrongly = summary["wrongly_refused"].get(path, 0)
    out.write(f"\n{path}: {summary['refused'].get(path, 0)} of {summary['folios']} folios refused")
    out.write(f", {wrongly} of them wrongly\n" if wrongly else "\n")
    if not rows:
        return
    headers = ["block", "range", "state", "zone", "node", "folios", "refused", "reasons", "verdict"]
    out.write(_table(rows, headers, "block node folios refused") + "\n")


def _device(device: Record, blocks: list[Record], out: TextIO) -> None:
    """Write what virtio-mem has, and could unplug, of the memory blocks of one device."""
    facts = [device["mode"], "from the map of memory" if device["source"] == "inferred" else None]
    facts += [f"{name} {device[name]:#x}" for name in ("node", "plugged_size", "requested_size") if device[name]]
    out.write(f"\nvirtio-mem {device['start']:#x}-{device['end'] - 1:#x}: {', '.join(filter(None, facts))}\n")
    rows = []
    for block in blocks:
        own = block["virtio_mem"]
        if own is None or own["device"] != device["start"]:
            continue
        reasons: dict[str, int] = {}
        for keeper in own["kept_by"]:
            for reason in keeper["reasons"]:
                reasons[reason] = reasons.get(reason, 0) + 1
        top = dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0])))
        rows.append(
            [
                "-" if block["block"] is None else str(block["block"]),
                printable(own["state"] or "-"),
                f"{own['sub_blocks']} of {own['sub_block_size']:#x}",
                str(own["plugged"]),
                str(own["unpluggable"] // own["sub_block_size"]),
                _reasons(top) or "-",
                own["verdict"] + (f" ({own['answer']})" if own["answer"] else ""),
            ]
        )
    if rows:
        headers = ["block", "state", "sub-blocks", "plugged", "can go", "kept by", "unplug"]
        out.write(_table(rows, headers, "block plugged") + "\n")
    if device["gives_up_at"] is not None:
        sure = "is" if device["unpluggable_at_least"] == device["unpluggable"] else "may be"
        out.write(
            f"a request to unplug all of it {sure} given up at block {device['gives_up_at']} with -ENOMEM, after"
            f" {device['unpluggable_at_least']:#x} to {device['unpluggable']:#x} bytes: hugetlb folios need room\n"
        )


def folio_row(record: Record) -> list[str]:
    """Return a refused folio as a row of the table."""

    def number(name: str) -> str:
        return "-" if record[name] is None else str(record[name])

    return [
        f"{record['pfn']:#x}",
        str(record["order"]),
        record["reason"] or "-",
        (record["duration"] or "-") + (" (wrongly)" if record["wrongly_refused"] else ""),
        number("refcount"),
        number("total_mapcount"),
        number("page_mapcount"),
        number("expected"),
        number("extra"),
        number("pins"),
        printable(record["type"]),
        printable(record["mapping"] or "-"),
        ", ".join(record["also"]) or "-",
    ]


FOLIO_HEADERS = [
    "pfn",
    "order",
    "reason",
    "duration",
    "refs",
    "mapped",
    "head",
    "expected",
    "extra",
    "pins",
    "type",
    "mapping",
    "also",
]


def _folios(path: str, records: list[Record], left_out: int, out: TextIO) -> None:
    if not records:
        return
    out.write(f"\nrefused on {path}:\n")
    numbers = "pfn order refs mapped head expected extra pins stays"
    headers, rows = FOLIO_HEADERS, [folio_row(record) for record in records]
    if "confirmed" in records[0]:
        headers = [*headers, "confirmed", "stays"]
        rows = [
            [
                *row,
                record["confirmed"] or "-",
                "-" if record["confirmed_extra"] is None else str(record["confirmed_extra"]),
            ]
            for row, record in zip(rows, records)
        ]
    if "holders" in records[0]:
        headers = [*headers, "who"]
        rows = [[*row, who(record)] for row, record in zip(rows, records)]
    out.write(_table(rows, headers, numbers) + "\n")
    if left_out:
        out.write(f"... and {left_out} more (--limit 0 lists all)\n")


def _confirmed(path: str, summary: Record, out: TextIO) -> None:
    confirm = summary["confirm"]
    if confirm is not None:
        held = {"persistent": f" ({confirm['held'][path]} held)"}
        numbers = confirm["paths"][path].items()
        counts = ", ".join(f"{number} {label}{held.get(label, '')}" for label, number in numbers)
        looks = "once more" if confirm["looks"] == 1 else f"{confirm['looks']} times more"
        out.write(f"looked at {looks}, {confirm['interval']:g} s apart: {counts}\n")


def _unknown(summary: Record, out: TextIO) -> None:
    counted = (
        (summary["offline_blocks"], "memory blocks are offline"),
        (summary["hole_pages"], "page frames are holes or not online"),
        (summary["poisoned_pages"], "struct pages were never initialised"),
        (summary["batched_references"], "references are held by per-CPU LRU and mlock batches (taken off above)"),
    )
    lines = [f"{number} {what}" for number, what in counted if number]
    lines += [f"note: {printable(note)}" for note in summary["notes"]]
    lines += [f"INCOMPLETE: {printable(what)}" for what in summary["incomplete"]]
    if lines:
        out.write("\n" + "\n".join(lines) + "\n")
