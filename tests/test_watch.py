# SPDX-License-Identifier: LGPL-2.1-or-later
"""Watching a target that changes between looks: fixtures, as in test_confirm."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from drgn_thp import watch
from drgn_thp.cli import main
from drgn_thp.context import Context
from drgn_thp.gates import find_path
from drgn_thp.report import Question, Report
from drgn_thp.watch import Watch
from tests.fixture import ALL
from tests.test_confirm import Changing, Opened
from tests.test_docs import documented, is_of


@pytest.fixture
def held() -> Changing:
    """A THP with a page in a pipe."""
    return Changing.of(ALL[1], "thp_held")


def watched(held: Changing, changes: list[Callable[[], Any]]) -> tuple[Watch, list[dict[str, Any]]]:
    """Return the records of as many looks as there are changes, and one; Ctrl-C comes after the last."""
    left = list(changes)

    def sleep(seconds: float) -> None:
        if not left:
            raise KeyboardInterrupt
        left.pop(0)()

    question = Question([find_path("offline")], lambda block: block.id == held.block)
    watching = Watch(lambda: held.context, lambda context: Report(context, question), 0, sleep)
    return watching, list(watching.records())


def changes_of(records: list[dict[str, Any]]) -> list[list[tuple[str, int]]]:
    """Return what changed at each look."""
    looks: list[list[tuple[str, int]]] = [[]]
    for record in records:
        if record["kind"] == "watch":
            looks.append([])
        else:
            looks[-1].append((record["change"], record["pfn"]))
    assert looks.pop() == []
    return looks


def test_nothing_changes(held: Changing) -> None:
    """The first look is what there is; after that, nothing comes or goes."""
    watching, records = watched(held, [lambda: None, lambda: None])
    assert [record["kind"] for record in records] == ["watch"] * 3
    assert records[0]["refused"]["offline"] > 1
    assert watching.refused
    assert watching.incomplete == []


def test_what_is_let_go_vanishes_and_what_is_taken_appears(held: Changing) -> None:
    """And is told with what was known of it."""
    _, records = watched(held, [lambda: held.write("refcount", add=-1), held.restore])
    assert changes_of(records) == [[], [("vanished", held.pfn)], [("appeared", held.pfn)]]
    gone, come = (record for record in records if record["kind"] == "folio")
    assert gone["extra"] == come["extra"] == 1
    assert [record["appeared"] for record in records if record["kind"] == "watch"] == [0, 0, 1]


def test_another_folio_in_its_place(held: Changing) -> None:
    """One went, one came, though page frame and surplus are the same."""
    _, records = watched(held, [lambda: held.write("index", add=512)])
    assert changes_of(records) == [[], [("vanished", held.pfn), ("appeared", held.pfn)]]


def test_memory_is_bounded(held: Changing, monkeypatch: pytest.MonkeyPatch) -> None:
    """What there is no room for is counted."""
    monkeypatch.setattr(watch, "MAX_WATCHED", 1)
    watching, _ = watched(held, [lambda: None])
    assert any("too many to be watched" in what for what in watching.incomplete)


def test_interrupted_in_the_middle_of_a_look(held: Changing, monkeypatch: pytest.MonkeyPatch) -> None:
    """That look is nobody's: its folios have not vanished."""

    def interrupt() -> None:
        def unreadable(*arguments: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("drgn_thp.report.Scan.blocks", unreadable)

    watching, records = watched(held, [interrupt])
    assert len(records) == 1
    assert watching.refused


def test_records_are_as_documented(held: Changing) -> None:
    """Fields and types."""
    _, records = watched(held, [lambda: held.write("refcount", add=-1)])
    fields = {"watch": documented("watch"), "folio": {**documented("folio"), **documented("watched")}}
    for record in records:
        assert all(is_of(value, fields[record["kind"]][name]) for name, value in record.items())
        if record["kind"] == "watch":
            assert set(record) == {name for name in fields["watch"] if "." not in name}
        else:
            assert "change" in record


@pytest.mark.parametrize("command", ["report", "refused"])
def test_from_the_command_line(
    command: str, held: Changing, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line for each change and each look; Ctrl-C ends it with the status of the last one."""
    left = [lambda: held.write("refcount", add=-1)]

    def sleep(interval: float, sleep: object) -> None:
        if not left:
            raise KeyboardInterrupt
        left.pop()()

    monkeypatch.setattr(watch, "pause_for", sleep)
    monkeypatch.setattr(Context, "fresh", staticmethod(lambda prog, racy_check=None: held.context))
    for module in ("report", "asked"):
        monkeypatch.setattr(f"drgn_thp.cli.{module}.open_context", lambda arguments: (Opened(), held.context))
    arguments = [command, "-k", "--watch"]
    arguments += (
        ["--path", "contig", "--block", str(held.block)] if command == "report" else ["contig", str(held.block)]
    )
    assert main(arguments) == 1
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 3
    assert out[1].startswith(f"- contig {held.pfn:#x} order 9 extra-reference: anon anon, refs ")
    assert out[2].endswith("; 0 appeared, 1 vanished")
    left = [held.restore]
    assert main([*arguments, "--format", "ndjson"]) == 1
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["kind"] for record in records] == ["watch", "folio", "watch"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--confirm", "1"], "excludes --confirm"),
        (["--holders"], "excludes --holders"),
        (["--format", "json"], "ndjson has a record a line"),
        (["--interval", "-1"], "from 0 to 86400"),
    ],
)
def test_what_makes_no_sense(
    options: list[str], said: str, held: Changing, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line each."""
    monkeypatch.setattr("drgn_thp.cli.report.open_context", lambda arguments: (Opened(), held.context))
    assert main(["report", "-k", "--watch", *options]) == 3
    assert said in capsys.readouterr().err


def test_a_dump_is_not_watched(capsys: pytest.CaptureFixture[str]) -> None:
    """A clear message."""
    assert main(["report", "-c", str(ALL[1].core), "--no-default-symbols", "--watch"]) == 3
    assert "a dump does not change" in capsys.readouterr().err
