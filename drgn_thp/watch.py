# SPDX-License-Identifier: LGPL-2.1-or-later
"""Refused folios of a live target, looked at over and over: which of them appeared, and which vanished."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Callable, TextIO

from .confirm import check_interval, identity, pause_for
from .context import Context
from .describe import SCHEMA, Record
from .errors import BadArgument
from .escape import printable
from .folios import Folios
from .report import Question, Report

MAX_WATCHED = 1 << 14
"""Refused folios (of one path) whose record is kept until the next look; what is above is counted only."""
_Key = tuple[str, int, bytes, str]


class Watch:
    """Puts one question to a live target over and over."""

    def __init__(
        self,
        renew: Callable[[], Context],
        ask: Callable[[Context], Report],
        interval: float,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """
        :param renew: Returns the context as it is now
        :param ask: Returns the report of a context
        :param interval: Seconds between the end of a look and the beginning of the next
        """
        check_interval(interval)
        self.refused = False
        """Whether anything was, at the last look that was completed."""
        self.incomplete: list[str] = []
        """What was missing from it."""
        self._renew = renew
        self._ask = ask
        self._interval = interval
        self._sleep = sleep

    def records(self) -> Iterator[Record]:
        """Yield what changed from look to look, each time followed by a summary, until interrupted."""
        before: dict[_Key, Record] | None = None
        number = 0
        try:
            while True:
                number += 1
                began = time.time()
                report = self._ask(self._renew())
                now, left_out = self._look(report)
                if report.totals.interrupted:
                    return
                last = now if before is None else before
                gone = [{**record, "change": "vanished"} for key, record in last.items() if key not in now]
                come = [{**record, "change": "appeared"} for key, record in now.items() if key not in last]
                yield from gone
                yield from come
                before = now
                self.refused = any(report.totals.refused.values())
                self.incomplete = report.incomplete + _too_many(left_out)
                yield self._summary(number, began, report, len(come), len(gone))
                pause_for(self._interval, self._sleep)
        except KeyboardInterrupt:
            return

    def _look(self, report: Report) -> tuple[dict[_Key, Record], int]:
        """Return the refused folios that are listed, and how many there was no room for."""
        known: dict[int, bytes] = {}

        def note(f: Folios) -> None:
            known.clear()  # of one block at a time
            known.update((pfn, words.tobytes()) for pfn, words in zip(f.pfn.tolist(), identity(f)))

        report.noted = note
        found: dict[_Key, Record] = {}
        left_out = 0
        for record in report.records():
            if record["kind"] != "folio":
                continue
            if len(found) < MAX_WATCHED:
                found[record["path"], record["pfn"], known[record["pfn"]], record["reason"]] = record
            else:
                left_out += 1
        return found, left_out

    def _summary(self, number: int, began: float, report: Report, come: int, gone: int) -> Record:
        return {
            "schema": SCHEMA,
            "kind": "watch",
            "look": number,
            "time": began,
            "seconds": time.time() - began,
            "folios": report.totals.folios,
            "refused": report.totals.refused,
            "appeared": come,
            "vanished": gone,
            "incomplete": self.incomplete,
        }


def _too_many(number: int) -> list[str]:
    return [f"{number} refused folios are too many to be watched one by one"] if number else []


def check_watch(context: Context, question: Question) -> None:
    """
    Check that watching makes sense.

    :raises BadArgument: of a dump, or together with --confirm
    """
    if not context.live:
        raise BadArgument("--watch: a dump does not change; it needs -k or --qemu")
    if question.looks is not None:
        raise BadArgument("--watch excludes --confirm: it looks again anyway")
    if question.holders:
        raise BadArgument("--watch excludes --holders: ask for those of what it shows")


def write(records: Iterator[Record], out: TextIO) -> None:
    """Write a line for each change, and one for each look, as they come."""
    for record in records:
        if record["kind"] == "watch":
            when = time.strftime("%H:%M:%S", time.localtime(record["time"]))
            counts = ", ".join(f"{path} {number}" for path, number in record["refused"].items())
            changes = f"{record['appeared']} appeared, {record['vanished']} vanished"
            out.write(f"{when} look {record['look']}: {record['folios']} folios, refused: {counts}; {changes}\n")
            out.write("".join(f"INCOMPLETE: {printable(what)}\n" for what in record["incomplete"]))
            out.flush()
        else:
            extra = "" if record["extra"] is None else f", extra {record['extra']}"
            out.write(
                f"{'+' if record['change'] == 'appeared' else '-'} {record['path']} {record['pfn']:#x}"
                f" order {record['order']} {record['reason']}: {printable(record['type'])}"
                f" {printable(record['mapping'] or '-')}, refs {record['refcount']}{extra}\n"
            )


def flushing(records: Iterator[Record], out: TextIO) -> Iterator[Record]:
    """Pass records on, and see to it that those of a look are written before the next."""
    for record in records:
        yield record
        if record["kind"] == "watch":
            out.flush()
