# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a report adds up of holders: each folio once, nothing hidden, and one pass for many blocks."""

from __future__ import annotations

import io
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from drgn_thp import holdings
from drgn_thp.context import Context
from drgn_thp.folios import Folios
from drgn_thp.holders.balance import Sheet
from drgn_thp.holders.model import Owner
from drgn_thp.holders.running import Held
from drgn_thp.holders_text import who, write_groups
from drgn_thp.holdings import Holdings, Refused
from drgn_thp.whose import Found, Table

CONTEXT = cast(Context, SimpleNamespace(kernel=SimpleNamespace(page_shift=12), live=False, allocation=lambda pfn: None))
PIPE = Held("pipe", Owner("pipe"), 1, 0, True, False)
BUFFERS = tuple(Held("io-uring", Owner(f"buffer {i}"), 0, 1, True, False) for i in range(2))
FIRST, SECOND = (7, "first", 3), (8, "second\x1b[31m", None)


def table(**found: Found) -> Table:
    """Return what was found of folios, by "pN"."""
    return cast(Table, SimpleNamespace(of=lambda pfn: found.get(f"p{pfn}")))


def found(*holders: tuple[Held, int, tuple[Any, ...]], unexplained: int = 0, mapped: int | None = None) -> Found:
    return Found(Sheet(0, holders, unexplained, 0, {7: "/one"}), (), 0, mapped)


def record(pfn: int, order: int = 0, block: int | None = 1, total_mapcount: int = 0) -> dict[str, Any]:
    return {"pfn": pfn, "order": order, "block": block, "total_mapcount": total_mapcount}


def test_a_folio_counts_once_for_each_group() -> None:
    """Though two paths refuse it, and two buffers of one ring hold it."""
    mine = Holdings(CONTEXT)
    of = table(
        p1=found(*((buffer, 1024, (FIRST,)) for buffer in BUFFERS), (PIPE, 1, (SECOND, FIRST))),
        p2=found((BUFFERS[0], 1, (FIRST,)), unexplained=4),
    )
    for line in (record(1), record(1), record(2, order=9, block=2), record(2, order=9, block=2), record(3)):
        mine.fields(line, of)
    total = mine.record()
    assert (total["folios"], total["held"], total["unexplained"], total["unexplained_folios"]) == (2, 2, 4, 1)
    ring, pipe = total["groups"]
    assert (ring["kind"], ring["pid"], ring["fd"], ring["cgroup"]) == ("io-uring", 7, 3, "/one")
    assert (ring["folios"], ring["bytes"], ring["refs"], ring["pins"]) == (2, 513 << 12, 2049, 3)
    assert ring["blocks"] == [1, 2]
    assert (pipe["kind"], pipe["pid"], pipe["processes"], pipe["folios"]) == ("pipe", 8, 2, 1)
    assert list(total["advice"]) == ["io-uring", "pipe"]
    assert mine.incomplete == []
    out = io.StringIO()
    write_groups(total, out)
    assert "7 (first) fd 3" in out.getvalue()
    assert "\x1b" not in out.getvalue()
    assert "UNEXPLAINED: 4 references of 1 folios\n" in out.getvalue()


def test_who_lets_go_by_itself_is_told() -> None:
    """In the records, beside the kind, and with the advice."""
    disk = Held("direct-io", Owner("direct I/O", device="sda"), 0, 1, True, False, True)
    mine = Holdings(CONTEXT)
    of = table(p1=found((disk, 1, (FIRST,)), (PIPE, 1, (SECOND,))))
    fields = mine.fields(record(1), of)
    assert [holder["transient"] for holder in fields["holders"]] == [True, False]
    assert who({**record(1), **fields}) == "direct-io (transient) 7 (first) fd 3 +1"
    total = mine.record()
    assert {group["kind"]: group["transient"] for group in total["groups"]} == {"direct-io": True, "pipe": False}
    assert [kind for kind, frees in total["advice"].items() if "it does so itself" in frees] == ["direct-io"]
    out = io.StringIO()
    write_groups(total, out)
    assert "direct-io (transient)" in out.getvalue()
    assert "pipe (transient)" not in out.getvalue()


def test_what_nobody_was_found_for_is_never_set_off_against_what_is_too_much() -> None:
    """One folio has two references too few, another two too many: neither makes up for the other."""
    mine = Holdings(CONTEXT)
    of = table(p1=found((PIPE, 3, (FIRST,)), unexplained=-2), p2=found(unexplained=2), p3=found(unexplained=-1))
    for pfn in (1, 2, 3):
        mine.fields(record(pfn), of)
    total = mine.record()
    assert (total["unexplained"], total["over_attributed"], total["over_attributed_folios"]) == (2, 2, 1)
    assert mine.incomplete == ["1 folios have more holders than references (2 too many): an error of drgn_thp"]
    out = io.StringIO()
    write_groups(total, out)
    assert "OVER-ATTRIBUTED: 2 references of 1 folios" in out.getvalue()


def test_map_counts_are_compared() -> None:
    """Where all page tables were read."""
    mine = Holdings(CONTEXT)
    of = table(p1=found(mapped=1), p2=found(mapped=3), p3=found())
    for pfn in (1, 2, 3):
        mine.fields(record(pfn, total_mapcount=1), of)
    assert mine.incomplete == ["1 folios are mapped by page tables more or less often than their map counts say"]


def test_too_many_groups_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dump may have a million pipes."""
    monkeypatch.setattr(holdings, "MAX_GROUPS", 2)
    monkeypatch.setattr(holdings, "SHOWN_GROUPS", 1)
    mine = Holdings(CONTEXT)
    of = table(**{f"p{i}": found((PIPE, 1, ((i, "x", 0),))) for i in range(5)})
    for pfn in range(5):
        mine.fields(record(pfn), of)
    assert mine.left_out == 3
    assert "3 times" in mine.incomplete[0]
    assert (len(mine.record()["groups"]), mine.record()["more_groups"]) == (1, 1)


def test_many_blocks_share_a_pass_and_too_many_take_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks come out in their order, each with its own table; no more folios wait than may."""
    passes: list[int] = []

    def whose(context: Context, tables: list[Any], search: bool) -> Any:
        passes.append(sum(map(len, tables)))
        return SimpleNamespace(problems=["walker x failed"], table=lambda f: ("of", f))

    monkeypatch.setattr(holdings, "Whose", whose)
    monkeypatch.setattr(holdings, "AT_ONCE", 4)
    mine = Holdings(CONTEXT)
    tables = [cast(Folios, range(3)), None, cast(Folios, range(1, 3)), None, cast(Folios, range(1))]
    blocks = [Refused({"block": i}, f) for i, f in enumerate(tables)]
    out = list(mine.found(blocks))
    assert [refused.block["block"] for refused in out] == [0, 1, 2, 3, 4]
    assert [cast(Any, refused.table) for refused in out] == [None if f is None else ("of", f) for f in tables]
    assert passes == [5, 1]
    assert mine.incomplete == ["walker x failed"]


def test_an_interrupt_costs_the_holders_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The folios are listed all the same, and it is said that nobody was looked for."""

    def interrupted(context: Context, tables: list[Any], search: bool) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(holdings, "Whose", interrupted)
    mine = Holdings(CONTEXT)
    [refused] = mine.found([Refused({}, cast(Folios, range(1)))])
    assert mine.fields(record(1), refused.table) == holdings.NOTHING
    assert mine.incomplete == ["interrupted: nobody was looked for who holds folios"]


def test_who_in_short() -> None:
    """The biggest holder, how many more, and what is left."""
    fields = found((BUFFERS[0], 1024, (FIRST,)), (PIPE, 1, (SECOND,)), unexplained=5).fields()
    assert who(fields) == "io-uring 7 (first) fd 3 +1, UNEXPLAINED 5"
    assert who(found().fields()) == "-"
    assert who(holdings.NOTHING) == "-"


def test_chains_are_counted_and_name_no_holder() -> None:
    """The same trail to two folios is one line, surest first, and explains nothing."""
    chain = {"confidence": "low", "pid": 7, "comm": "a\x1b", "fd": 3, "file": True, "via": ["kmalloc-8", "filp"]}
    sure = {**chain, "confidence": "fair", "pid": None, "comm": None, "fd": None}
    mine = Holdings(CONTEXT, search=True)
    of = table(
        p1=replace(found(unexplained=1), chains=(chain,)),
        p2=replace(found(unexplained=1), chains=(chain, sure)),
    )
    for pfn in (1, 1, 2):
        mine.fields(record(pfn), of)
    total = mine.record()
    assert [(each["confidence"], each["folios"]) for each in total["chains"]] == [("fair", 1), ("low", 2)]
    assert (total["held"], total["unexplained"], total["groups"]) == (0, 2, [])
    out = io.StringIO()
    write_groups(total, out)
    assert "chain found to 2 folios (confidence: low): kmalloc-8 <- filp <- 7 (a\\x1b) fd 3\n" in out.getvalue()
    assert "kmalloc-8 <- filp <- a file that no process has open\n" in out.getvalue()
