# SPDX-License-Identifier: LGPL-2.1-or-later
"""Commands and subcommands are one: the same words, options and answers. And the answers are those of the guest."""

from __future__ import annotations

import argparse
import inspect
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Callable

import drgn
import pytest
from drgn.commands import CommandError, run_command

import drgn_thp.plugin
from drgn_thp.cli import COMMANDS, main
from drgn_thp.commands import SUMMARIES, module_of
from drgn_thp.errors import BadArgument
from drgn_thp.gates import reasons_of
from drgn_thp.holdings import NOTHING
from drgn_thp.session import Session
from tests.fixture import ALL, Fixture, Mark
from tests.test_docs import documented, is_of

BLOCKS = "32-35"

Capture = pytest.CaptureFixture[str]


def prompt(fixture: Fixture, line: str) -> list[dict[str, Any]]:
    """Run a command as the prompt does, and return its value."""
    assert drgn_thp.plugin
    value: list[dict[str, Any]] = run_command(fixture.prog, line)
    return value


def marks(fixture: Fixture, *kinds: str) -> list[Mark]:
    return [mark for mark in fixture.marks if mark.kind in kinds and mark.head in fixture.node1]


LINES = {
    "memblocks": (BLOCKS, "--path contig 32"),
    "refused": ("", "offline", f"split {BLOCKS}", "32"),
    "thp": (BLOCKS, ""),
    "swapcache": (BLOCKS, ""),
    "ksm": (BLOCKS, ""),
    "virtio_mem": ("", "33"),
    "reasons": ("", "slab"),
}


@pytest.fixture
def opened(fixture: Fixture, monkeypatch: pytest.MonkeyPatch) -> Fixture:
    """
    Let the command line find the fixture open: opening it for each question would take most of the time.

    And the session, which drgn cannot have opened as it is compressed.
    """
    monkeypatch.setattr("drgn_thp.target.open_target", lambda spec: fixture.target)
    monkeypatch.setitem(fixture.prog.cache, "drgn_thp.session", fixture.target)
    return fixture


def same(fixture: Fixture, capsys: Capture, line: str) -> str:
    """Ask at the prompt and in the shell, and return the answer."""
    prompt(fixture, line)
    at_prompt = capsys.readouterr()
    word, *rest = line.split()
    target = [] if word == "reasons" else fixture.arguments()
    main([word, *target, "--format", "text", *rest])
    in_shell = capsys.readouterr()
    assert at_prompt.out == in_shell.out
    return at_prompt.out


@pytest.mark.parametrize("line", [f"{word} {rest}".strip() for word in LINES for rest in LINES[word]])
def test_prompt_and_shell_say_the_same(opened: Fixture, capsys: Capture, line: str) -> None:
    """To the letter."""
    assert same(opened, capsys, line)


@pytest.mark.parametrize("scenario", ["base", "thp_cow_held", "tmpfs_thp_pte", "swapcache_thp", "hugetlb_held", "ksm"])
def test_folio_and_the_command_line(opened: Fixture, capsys: Capture, scenario: str) -> None:
    """Must show 6: the same answer, from one code path, for any name of a page."""
    fixture = opened
    mark = next(mark for mark in fixture.marks if mark.scenario == scenario)
    memmap = fixture.context.memmap
    names = (f"{mark.pfn:#x}", f"phys:{mark.pfn << 12:#x}", f"page:{memmap.page_address(mark.pfn):#x}")
    answers = {same(fixture, capsys, f"folio {name}").partition(": ")[2] for name in names}
    assert len(answers) == 1
    assert f"page frame {mark.pfn:#x}" in answers.pop()


def test_folio_is_one_function(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    """Neither has anything of its own; here the command line opens the dump itself."""
    seen: list[list[str]] = []
    module: Any = module_of("folio")
    ask = module.ask

    def asked(session: Any, arguments: argparse.Namespace) -> Any:
        seen.append(arguments.pages)
        return ask(session, arguments)

    monkeypatch.setattr(module, "ask", asked)
    fixture = ALL[1]
    same(fixture, capsys, f"folio {fixture.node1.start:#x}")
    assert seen == [[f"{fixture.node1.start:#x}"]] * 2


@pytest.mark.parametrize("word", SUMMARIES)
def test_each_word_is_a_subcommand(word: str) -> None:
    """With the same options, and a function of its own behind it."""
    assert word in COMMANDS
    module: Any = module_of(word)
    assert module.DESCRIPTION.endswith(".")
    assert inspect.getdoc(module.ask)
    for argument in module.arguments():
        assert argument.options["help"]


# -- and is it true ----------------------------------------------------------------------------------------------------


def test_thp_lists_what_the_guest_mapped(fixture: Fixture) -> None:
    """Every THP of the guest's, mapped as its program mapped it."""
    records = {record["pfn"]: record for record in prompt(fixture, f"thp {BLOCKS}")}
    large = {mark.head for mark in marks(fixture, "anon-thp", "shmem-thp", "anon-mthp")}
    assert large == set(records) - {mark.head for mark in marks(fixture, "file")}

    def of(scenario: str) -> dict[str, Any]:
        return next(records[mark.head] for mark in fixture.marks if mark.scenario == scenario and mark.head in records)

    assert (of("thp_pmd")["pmd_mappings"], of("thp_pmd")["pte_mappings"]) == (1, 0)
    assert (of("thp_forked")["pmd_mappings"], of("thp_forked")["pte_mappings"]) == (2, 0)
    assert (of("thp_pte")["pmd_mappings"], of("thp_pte")["pte_mappings"]) == (0, 512)
    assert of("thp_pte_3procs")["pte_mappings"] == 3 * 512
    assert (of("thp_partial")["mapped_pages"], of("thp_partial")["partially_mapped"]) == (256, True)
    assert (of("thp_partial_head")["mapped_pages"], of("thp_partial_head")["partially_mapped"]) == (511, True)
    assert of("thp_partial")["deferred"] is True
    assert of("tmpfs_thp_mapped")["deferred"] is False
    assert {record["pfn"] for record in records.values() if record["reason"] == "extra-reference"} == {
        pfn for pfn in fixture.held() if pfn in records
    }


def test_swapcache_lists_what_the_guest_swapped(fixture: Fixture) -> None:
    """Every folio of which /proc/kpageflags says so, each with a slot of its own."""
    records = prompt(fixture, f"swapcache {BLOCKS}")
    flags = fixture.kpageflags
    in_cache = {fixture.node1.start + i for i in range(len(flags)) if int(flags[i]) >> 13 & 1}
    heads = {pfn for pfn in in_cache if not int(flags[pfn - fixture.node1.start]) >> 16 & 1}
    assert {record["pfn"] for record in records} == heads
    slots = {(record["swap_type"], record["swap_offset"]) for record in records}
    assert len(slots) == len(records)
    assert all(record["swapcache_references"] == 1 << record["order"] for record in records)
    assert all(record["extra"] == 0 for record in records)


def test_ksm_lists_what_the_guest_shared(fixture: Fixture) -> None:
    """Every page that its program saw merged; /proc/kpageflags of 6.12 says KSM of any anonymous page."""
    records = prompt(fixture, f"ksm {BLOCKS}")
    assert {record["pfn"] for record in records} == {mark.pfn for mark in marks(fixture, "ksm")}
    assert all(record["balance"] == 0 for record in records)


def test_refused_lists_what_the_guest_holds(fixture: Fixture) -> None:
    """And names every folio once."""
    records = prompt(fixture, f"refused contig {BLOCKS}")
    assert [record["pfn"] for record in records] == sorted(fixture.held())


def test_refused_says_who_and_what_is_unexplained(fixture: Fixture, capsys: Capture) -> None:
    """In a slim core there are no files, so all that is held is unexplained, in each line and in all."""
    records = prompt(fixture, f"refused contig {BLOCKS} --holders")
    out = capsys.readouterr().out
    user = [record for record in records if record["unexplained"] is not None]
    total = sum(max(record["unexplained"], 0) for record in user)
    assert total >= len(fixture.held())
    assert f"\nUNEXPLAINED: {total} references of " in out
    for record in user:
        if record["unexplained"] > 0:
            assert re.search(rf"^{record['pfn']:#x} .*UNEXPLAINED {record['unexplained']}$", out, re.MULTILINE)
    assert "INCOMPLETE: files: " in out


@pytest.mark.parametrize("word", ["thp", "swapcache", "ksm"])
def test_records_are_as_documented(fixture: Fixture, word: str) -> None:
    """Every field is on the page, and of the type it says."""
    fields = {**documented("folio"), **documented(word)}
    for name in list(fields):
        if name.split(".")[0] in ("asked", "confirmed", "confirmed_extra", *NOTHING, "chains", "allocation"):
            del fields[name]
    records = prompt(fixture, f"{word} {BLOCKS}")
    assert records
    for record in records:
        assert set(record) == set(fields)
        assert all(is_of(value, fields[name]) for name, value in record.items())


def test_reasons_are_as_documented(capsys: Capture) -> None:
    """As a program gets them."""
    assert main(["reasons", "--format", "ndjson"]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {record["reason"] for record in records} == set(reasons_of())
    for record in records:
        assert set(record) == set(documented("reason"))
        assert all(is_of(value, documented("reason")[name]) for name, value in record.items())


def test_virtio_mem_shows_what_keeps_each_sub_block(fixture: Fixture) -> None:
    """Those of the folios that the guest holds, in sub-blocks of one pageblock."""
    records = prompt(fixture, f"virtio_mem {BLOCKS}")
    blocks = [record for record in records if record["kind"] == "block"]
    assert [record["kind"] for record in records] == ["block"] * 4 + ["virtio_mem"] * (len(records) - 4)
    kept = {keeper["start"] >> 12 for block in blocks for keeper in block["virtio_mem"]["kept_by"]}
    assert kept == {pfn & ~511 for pfn in fixture.held()}


def test_what_cannot_be_read_is_counted(fixture: Fixture, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list that is not whole says so."""
    memmap = fixture.context.memmap
    read, lost = type(memmap).read, range(fixture.node1.start, fixture.node1.start + 64)

    def damaged(self: Any, pfn: int, count: int) -> Any:
        if pfn < lost.stop and lost.start < pfn + count:
            raise drgn.FaultError("lost", pfn)
        return read(self, pfn, count)

    whole = prompt(fixture, f"thp {BLOCKS}")
    monkeypatch.setattr(type(memmap), "read", damaged)
    capsys.readouterr()
    rest = prompt(fixture, f"thp {BLOCKS}")
    assert "INCOMPLETE: 64 struct pages" in capsys.readouterr().out
    assert [record["pfn"] for record in rest] == [record["pfn"] for record in whole if record["pfn"] not in lost]


def test_an_answer_does_not_depend_on_the_questions_before(opened: Fixture, capsys: Capture) -> None:
    """What could not be read of other memory is not missing here."""
    prompt(opened, "memblocks 33")
    first = capsys.readouterr().out
    opened.context.doubts.unreadable_pageblocks.add(0)
    prompt(opened, "memblocks 33")
    assert capsys.readouterr().out == first
    assert "INCOMPLETE" not in first


@pytest.mark.parametrize("word", ["memblocks", "refused", "thp", "swapcache", "ksm", "virtio_mem"])
def test_progress_is_shown_to_the_end(fixture: Fixture, word: str) -> None:
    """Who waits sees how far it is; and every page is counted once."""
    shown: list[int] = []

    @contextmanager
    def progress(total: int) -> Iterator[Callable[[int], None]]:
        shown.append(-total)
        yield shown.append

    session = Session.of_target(fixture.target, fixture.context, progress)
    path = ["contig"] if word == "memblocks" else None
    module_of(word).ask(
        session, argparse.Namespace(blocks=["32-33"], path=path, confirm=None, holders=None, search=False)
    )
    assert shown[0] == -2 * 32768
    assert sum(shown) == 0


def test_a_block_that_is_not_there(fixture: Fixture) -> None:
    """As an exception of drgn's, which the prompt makes a line of."""
    with pytest.raises(CommandError, match="no such memory block: 4000"):
        prompt(fixture, "ksm 4000")
    with pytest.raises(BadArgument, match="no reason"):
        module_of("reasons").ask(None, argparse.Namespace(reasons=["nonsense"]))
