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
