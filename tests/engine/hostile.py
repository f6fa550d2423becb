# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Runs the command on damaged dumps, in a process of its own: its memory can be bounded, and a hang be cut short.

    python -m tests.engine.hostile KERNEL [--seeds N] [--seed N] [--only DAMAGE] [--debug]

Prints one JSON object per command that was run, then one about the process.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import resource
import signal
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

import drgn_thp.target
from drgn_thp.cli import main
from tests.vm.lab import ensure_dump
from tests.vm.matrix import kernel

from .damage import DAMAGES, MAY_BE_FATAL, Patient, damaged
from .overlay import Overlay, forget

KINDS = ("block", "folio", "summary", "virtio_mem")
SECONDS = 20
"""How long one command may take; it takes a fraction of a second."""
ROOM_BYTES = 512 << 20
"""How much the process may grow over what the opened Program needs."""


UNDAMAGED = "none"
# For what the report on all memory lists folios: not for what every host has thousands of, which only takes time here.
LISTED = (
    "broken-compound",
    "buffer-busy",
    "dma-pinned",
    "extra-reference",
    "hwpoison",
    "isolated",
    "locked",
    "lru-batch",
    "missing-reference",
    "not-on-lru",
    "page-offline",
    "pageblock-isolated",
    "truncated",
    "writeback",
)


class TooLong(BaseException):
    """Not an Exception: the command must not be able to turn it into an error of its own."""


@dataclass
class Outcome:
    """How one command ended."""

    damage: str
    seed: int
    command: str
    status: int
    seconds: float
    stderr: str
    problem: str


@contextlib.contextmanager
def time_limit() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise TooLong

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _run(arguments: Sequence[str]) -> tuple[int, str, str, str]:
    """Run a command; return its status, what it wrote to stdout and stderr, and how it went wrong."""
    out, err, status, problem = io.StringIO(), io.StringIO(), -1, ""
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            with time_limit():
                status = main(arguments)
        except TooLong:
            problem = "took too long:\n" + traceback.format_exc()
        except BaseException:
            problem = "raised:\n" + traceback.format_exc()
    return status, out.getvalue(), err.getvalue(), problem


def _judge(status: int, out: str, err: str, form: str, asked: int) -> str:
    """
    Return what is wrong with an answer; empty if nothing is.

    :param asked: How many things were asked about, each of which may fail with a line of its own
    """
    lines = err.splitlines()
    if status not in (0, 1, 2, 3):
        return f"status {status}"
    if not all(line.startswith("drgn-thp: ") for line in lines) or "Traceback" in err + out:
        return "stderr"
    if status == 3 and (not 1 <= len(lines) <= asked or out):
        return f"{len(lines)} lines on stderr, {len(out)} characters on stdout"
    if "--debug shows where" in err:
        return "an error that was not foreseen"
    if status == 3 and not lines[0].removeprefix("drgn-thp: ").strip():
        return "an error without a word"
    if status != 3 and form == "ndjson":
        return _judge_records(out)
    return "control characters" if any(c < " " and c != "\n" for c in out) else ""


def _judge_records(out: str) -> str:
    for line in out.splitlines():
        record = json.loads(line, parse_constant=lambda word: f"no JSON: {word}")
        if record["schema"] != "drgn-thp/1" or record["kind"] not in KINDS:
            return f"a record of no known kind: {line[:200]}"
        if record["kind"] == "block":
            for name in ("folios", "used_pages", "hole_pages", "poisoned_pages", "unreadable_pages"):
                if record[name] < 0:
                    return f"block {record['block']}: {name} is {record[name]}"
    return ""


def commands(patient: Patient, rng: random.Random) -> Iterator[tuple[str, list[str]]]:
    """Yield commands to run on a damaged dump, with their output format."""
    target = ["-c", "damaged"]
    listed = [word for reason in LISTED for word in ("--only", reason)]
    yield "text", ["report", *target, *rng.choice(([], ["--path", "all"])), *listed]
    pfns = [rng.choice(patient.touched or patient.used) for _ in range(12)]
    start = pfns[0] & ~0x7FFF
    block = f"{start << 12:#x}-{(start + 0x7FFF) << 12:#x}"
    path = rng.choice(("contig", "compaction", "mbind", "split", "offline"))
    yield "ndjson", ["report", *target, "--path", path, "--format", "ndjson", "--block", block]
    yield "text", ["folio", *target, *map(hex, pfns)]
    yield "ndjson", ["folio", *target, "--format", "ndjson", *map(hex, pfns[:4])]


def outcomes(patient: Patient, name: str, seed: int, debug: bool = False) -> Iterator[Outcome]:
    """Run every command on a damaged dump."""
    rng = random.Random(seed)
    for form, command in commands(patient, rng):
        forget(patient.prog)
        start = time.monotonic()
        status, out, err, problem = _run([*command, *(["--debug"] if debug else [])])
        seconds = time.monotonic() - start
        asked = sum(word.startswith("0x") for word in command) or 1
        problem = problem or _judge(status, out, err, form, asked)
        if status == 3 and command[0] == "report" and name not in MAY_BE_FATAL:
            problem = problem or "no report at all"
        yield Outcome(name, seed, " ".join(command), status, round(seconds, 3), err if debug else err[:2000], problem)


def _grown() -> int:
    """Return the most memory that the process ever had resident, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def _bound_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + ROOM_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _everything(overlay: Overlay, options: argparse.Namespace) -> Iterator[Outcome]:
    """Run on the dump as it is, which imports everything and shows that the commands are fine; then damage it."""
    overlay.mend()
    yield from outcomes(Patient(overlay), UNDAMAGED, 0, options.debug)
    _bound_memory()
    for seed in range(options.seeds) if options.seed is None else [options.seed]:
        for name in DAMAGES if options.only is None else [options.only]:
            yield from outcomes(damaged(overlay, name, seed), name, seed, options.debug)


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.engine.hostile", description="Run on damaged dumps.")
    parser.add_argument("kernel")
    parser.add_argument("--seeds", type=int, default=1, help="how often to damage the dump in each way")
    parser.add_argument("--seed", type=int, help="only this one")
    parser.add_argument("--only", choices=list(DAMAGES), help="only this way")
    parser.add_argument("--debug", action="store_true", help="let the command show where an error comes from")
    options = parser.parse_args()
    overlay = Overlay(ensure_dump(kernel(options.kernel)))
    drgn_thp.target.open_target = lambda spec: overlay.target
    before = _grown()
    for outcome in _everything(overlay, options):
        before = _grown() if outcome.damage == UNDAMAGED else before
        print(json.dumps(asdict(outcome)), flush=True)
    print(json.dumps({"grown_bytes": _grown() - before}))


if __name__ == "__main__":
    _main()
