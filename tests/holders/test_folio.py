# SPDX-License-Identifier: LGPL-2.1-or-later
"""``folio --holders`` where what walkers read is not there: a slim core that has no files in it."""

from __future__ import annotations

import json

import pytest

from drgn_thp.cli import main
from tests.fixture import Fixture


def test_what_cannot_be_read_is_said(fixture: Fixture, capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody is found, so everything is unexplained, and it is said why; nothing is raised, and nothing looks fine."""
    head, _ = next(iter(fixture.held().items()))
    status = main(["folio", hex(head), "--path", "contig", "--holders", *fixture.arguments()])
    out = capsys.readouterr().out
    assert status == 2
    assert "UNEXPLAINED" in out
    assert "INCOMPLETE: files: " in out
    main(["folio", hex(head), "--path", "contig", "--holders", "--format", "json", *fixture.arguments()])
    record = json.loads(capsys.readouterr().out)[0]
    assert record["holders"] == []
    assert record["unexplained"] == record["extra"]


def test_a_search_in_a_slim_core_says_what_it_lacks(fixture: Fixture, capsys: pytest.CaptureFixture[str]) -> None:
    """There is none of the kernel's own memory in it."""
    head, _ = next(iter(fixture.held().items()))
    assert main(["folio", hex(head), "--path", "contig", "--search", "--format", "json", *fixture.arguments()]) == 2
    assert json.loads(capsys.readouterr().out)[0]["chains"] == []
    assert main(["folio", hex(head), "--path", "contig", "--search", *fixture.arguments()]) == 2
    assert "INCOMPLETE: search: " in capsys.readouterr().out
