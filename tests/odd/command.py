# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command, as a user runs it, and what it leaves behind."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drgn_thp.cli import main
from tests.vm.lab import Dump

Record = dict[str, Any]
# drgn would look for debugging symbols on the machine that runs the tests.
NO_SYMBOLS = ("--no-default-symbols",)


@dataclass(frozen=True)
class Outcome:
    """What a run of ``drgn-thp report`` left behind."""

    status: int
    records: tuple[Record, ...]
    errors: str

    @property
    def summary(self) -> Record:
        assert self.records, self.errors
        assert self.records[-1]["kind"] == "summary"
        return self.records[-1]

    @property
    def incomplete(self) -> str:
        return "\n".join(self.summary["incomplete"])

    @property
    def blocks(self) -> list[Record]:
        return [record for record in self.records if record["kind"] == "block"]

    @property
    def folios(self) -> dict[tuple[int, str], Record]:
        """The refused folios, by page frame and path."""
        return {(record["pfn"], record["path"]): record for record in self.records if record["kind"] == "folio"}


def report(core: Path, *options: str) -> Outcome:
    """Run ``drgn-thp report`` in a process of its own, in which nothing can hide a traceback."""
    command = [sys.executable, "-m", "drgn_thp", *_arguments(core, options)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return _outcome(result.returncode, result.stdout, result.stderr)


def report_here(core: Path, *options: str) -> Outcome:
    """Run the same in this process, where there are many to run: an exception that is not caught fails the test."""
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        status = main(_arguments(core, options))
    return _outcome(status, out.getvalue(), errors.getvalue())


def _arguments(core: Path, options: Iterable[str]) -> list[str]:
    return ["report", "-c", str(core), "--format", "ndjson", *options]


def _outcome(status: int, out: str, errors: str) -> Outcome:
    assert "Traceback" not in errors, errors
    return Outcome(status, tuple(json.loads(line) for line in out.splitlines()), errors)


def dwarf(dump: Dump) -> tuple[str, ...]:
    """Return the options that make the debug package the source of types."""
    return ("-s", str(dump.vmlinux), "--main-symbols")


def movable(dump: Dump) -> tuple[str, ...]:
    """Return the options that ask for node 1 only, whose memory is that of the workload's processes and files."""
    pfns = dump.hotplug_pfns
    return ("--block", f"{pfns.start << 12:#x}-{(pfns.stop << 12) - 1:#x}")


def held(dump: Dump) -> set[int]:
    """Return the folios of node 1 on which the workload has a reference of its own, by the guest's flags."""
    tail = 1 << 16  # KPF_COMPOUND_TAIL
    heads = set()
    for mark in dump.marks:
        pfn = mark.pfn
        while int(dump.kpageflags[pfn]) & tail:
            pfn -= 1
        if mark.held and pfn in dump.hotplug_pfns:
            heads.add(pfn)
    return heads


def one_line(errors: str) -> str:
    """Return the message of a command that could not run, which must be one line of words, not a Python exception."""
    lines = errors.splitlines()
    assert len(lines) == 1, errors
    assert lines[0].startswith("drgn-thp: "), errors
    message = lines[0].partition(": ")[2]
    first = message.split(":")[0]
    assert not first.endswith(("Error", "Exception", "Warning")), errors
    return message


def without(records: Iterable[Record], *fields: str) -> list[Record]:
    return [{name: value for name, value in record.items() if name not in fields} for record in records]
