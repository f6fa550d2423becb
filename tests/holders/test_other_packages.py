# SPDX-License-Identifier: LGPL-2.1-or-later
"""A kind of holder in a package of somebody else's: it appears in reports, and nothing of drgn_thp is touched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.fixture import ALL
from tests.tree import ROOT

FIXTURE = ALL[0]
WALKERS = """
from drgn_thp.holders.model import Claim, Owner, Walker


def walk(ground):
    yield Claim(Owner("widget 7", device="widget0"), [{pfn:#x}], gets=1)


WALKERS = (Walker(kind="widget", summary="a page of a widget", frees="close the widget", walk=walk),)
"""


def installed(directory: Path, pfn: int) -> None:
    """Make what pip would leave behind of a package with one module."""
    (directory / "widget_tools.py").write_text(WALKERS.format(pfn=pfn))
    about = directory / "widget_tools-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: widget-tools\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[drgn_thp.holders]\nwidget = widget_tools\n")


def test_a_kind_of_another_package(tmp_path: Path) -> None:
    """By process, in the records and in the totals, with its advice; and what it claims is explained by it."""
    pfn = next(pfn for pfn, scenario in FIXTURE.held().items() if scenario == "base_held")
    installed(tmp_path, pfn)
    command = [sys.executable, "-m", "drgn_thp", "report", *FIXTURE.arguments(), "--path", "offline", "--holders"]
    command += ["--block", f"{pfn << 12:#x}", "--format", "ndjson"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    records = [json.loads(line) for line in done.stdout.splitlines()]
    mine = next(record for record in records if record.get("pfn") == pfn)
    assert [(held["kind"], held["owner"], held["device"], held["refs"]) for held in mine["holders"]] == [
        ("widget", "widget 7", "widget0", 1)
    ]
    assert (mine["extra"], mine["unexplained"]) == (1, 0)
    assert all(record["unexplained"] for record in records if record.get("extra") and record["pfn"] != pfn)
    totals = records[-1]["holders"]
    assert totals["advice"] == {"widget": "close the widget"}
    assert [group["folios"] for group in totals["groups"] if group["kind"] == "widget"] == [1]
