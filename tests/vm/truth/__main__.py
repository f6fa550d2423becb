# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Ask every kernel about every scene, and write docs/accuracy.md.

    python -m tests.vm.truth [--kernel K] [--scene S] [--rows FILE] [--no-write]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from tests.vm.dumps import ensure_dump
from tests.vm.matrix import KERNELS, kernel
from tests.vm.scenes import SCENES

from .accuracy import page, summary
from .judge import Outcome
from .load import LOAD
from .run import Result, ask

DOCS = Path(__file__).resolve().parents[3] / "docs"
# Guests at a time, for two CPUs: each mostly uses one, and none while it waits for something. For how long it is waited
# for depends on what it does (patience.py), so that they are not in each other's way.
WORKERS = 3


def one(task: tuple[str, str]) -> Result:
    """Ask one kernel about one scene."""
    name, scene = task
    start = time.monotonic()
    result = ask(ensure_dump(kernel(name), scene=next(s for s in SCENES if s.name == scene)))
    counts = Counter(row.outcome.value for row in result.rows)
    costs = ", ".join(
        f"{path} {cost.guests} {cost.seconds:.0f} s ({cost.ran:.0f})" for path, cost in result.costs.items()
    )
    print(
        f"{name} {scene}: {time.monotonic() - start:.0f} s, {dict(counts)}; guests, and how long they ran: {costs}",
        file=sys.stderr,
        flush=True,
    )
    if result.failure:
        print(f"{name} {scene} FAILED: {result.failure}", file=sys.stderr, flush=True)
    return result


def _longest_first(tasks: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Order tasks as they were the last time, so that no long one is left for the end; new ones come first."""
    path = DOCS / "accuracy.json"
    last: dict[str, dict[str, int]] = json.loads(path.read_text()).get("scenes", {}) if path.exists() else {}
    return sorted(tasks, key=lambda task: -last.get(task[1], {}).get(task[0], sys.maxsize))


def _rows(results: list[Result]) -> list[dict[str, Any]]:
    return [
        {
            "kernel": result.kernel,
            "scene": result.scene,
            "scenarios": row.folio.scenarios,
            "path": row.path,
            "outcome": row.outcome.value,
            "answer": row.told.answer.value,
            "told": row.told.word,
            "confirmed": row.confirmed,
            "said": row.said,
        }
        for result in results
        for row in result.rows
    ]


def main() -> int:
    """Return 1 if the kernel disagrees anywhere, or has not answered everything."""
    parser = argparse.ArgumentParser(prog="python -m tests.vm.truth", description=__doc__)
    parser.add_argument("--kernel", action="append", choices=[entry.name for entry in KERNELS])
    parser.add_argument("--scene", action="append", choices=[scene.name for scene in SCENES])
    parser.add_argument("--rows", type=Path, help="write every single row here, as JSON")
    parser.add_argument("--no-write", action="store_true", help="do not touch docs/")
    options = parser.parse_args()
    start = time.monotonic()
    scenes = options.scene or [scene.name for scene in SCENES]
    tasks = [(name, scene) for scene in scenes for name in options.kernel or [entry.name for entry in KERNELS]]
    with ProcessPoolExecutor(WORKERS) as pool:
        running = {task: pool.submit(one, task) for task in _longest_first(tasks)}
        results = [running[task].result() for task in tasks]
    load: list[dict[str, Any]] = json.loads(LOAD.read_text()) if LOAD.exists() else []
    totals = summary(results, load, time.monotonic() - start)
    lines = list(page(results, load, totals))
    if options.rows:
        options.rows.write_text(json.dumps(_rows(results), indent=1) + "\n")
    if options.no_write:
        print("\n".join(lines))
    else:
        (DOCS / "accuracy.md").write_text("\n".join(lines) + "\n")
        (DOCS / "accuracy.json").write_text(json.dumps(totals, indent=1, sort_keys=True) + "\n")
    wrong = [row for result in results for row in result.rows if row.outcome is Outcome.DISAGREES]
    wrong_blocks = [block for result in results for block in result.blocks if not block.agrees]
    failures = [result for result in results if result.failure]
    print(f"{len(wrong)} folios and {len(wrong_blocks)} blocks disagree", file=sys.stderr)
    if failures:
        print(f"{len(failures)} scenes were not answered to the end", file=sys.stderr)
    return 1 if wrong or wrong_blocks or failures else 0


if __name__ == "__main__":
    sys.exit(main())
