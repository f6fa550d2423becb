# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who allocated pages, on a kernel that records it: as that kernel itself said in /sys/kernel/debug/page_owner."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from drgn import FaultError

from drgn_thp.cli import main
from drgn_thp.context import Context
from drgn_thp.page_owner import MAX_FRAMES
from drgn_thp.target import TargetSpec, open_target

from .fixture import BUNDLED, CORE, EXPECTED, FIXTURES, Fixture

DIRECTORY = FIXTURES / "page_owner"
SAID: list[dict[str, Any]] = json.loads((DIRECTORY / EXPECTED).read_text(encoding="utf-8"))
OPTIONS = ("-c", str(DIRECTORY / CORE), "--no-default-symbols")
# A free page, of which the slim core has no record.
LEFT_OUT = 0x107FFF


def opened() -> Context:
    return Context.of(open_target(TargetSpec(core=str(DIRECTORY / CORE), default_symbols="none")).prog)


@pytest.fixture(scope="module")
def context() -> Context:
    return opened()


def said(page: str) -> dict[str, Any]:
    return next(owner for owner in SAID if owner["page"] == page)


@pytest.mark.parametrize("page", [owner["page"] for owner in SAID])
def test_as_the_kernel_says(context: Context, page: str) -> None:
    """Order, flags, who, when, and where in the kernel."""
    owner = said(page)
    allocation = context.allocation(owner["pfn"])
    assert allocation is not None
    assert allocation.record() == {name: owner[name] for name in allocation.record()}


def test_every_page_of_an_allocation(context: Context) -> None:
    """The kernel records the same for each of them, one after the other."""
    pfn = said("thp")["pfn"]
    first, other = context.allocation(pfn), context.allocation(pfn + 5)
    assert first is not None
    assert other is not None
    assert other.seconds is not None
    assert first.seconds is not None
    assert 0 < other.seconds - first.seconds < 1
    assert replace(other, seconds=first.seconds) == first


def test_folio_shows_it(capsys: pytest.CaptureFixture[str]) -> None:
    """By any page of the folio, and with words from the dump escaped."""
    owner = said("thp")
    assert main(["folio", *OPTIONS, "--path", "split", hex(owner["pfn"] + 5)]) == 1
    out = capsys.readouterr().out
    assert "\033" not in out
    assert f"allocated by {owner['pid']} (owner \\x1b[1m<b>) at {owner['seconds']:.6f} s, order 9, gfp_mask" in out
    assert "".join(f"    {frame}\n" for frame in owner["stack"]) in out


def test_records_have_it(capsys: pytest.CaptureFixture[str]) -> None:
    """From `folio`, and in reports that search."""
    owner = said("held")
    options = (*OPTIONS, "--path", "offline", "--format", "ndjson")
    main(["folio", *options, hex(owner["pfn"])])
    [alone] = map(json.loads, capsys.readouterr().out.splitlines())
    main(["report", *options, "--block", hex(owner["pfn"] << 12), "--search"])
    records = map(json.loads, capsys.readouterr().out.splitlines())
    listed = next(record for record in records if record.get("pfn") == owner["pfn"])
    assert alone["allocation"] == listed["allocation"] == {name: owner[name] for name in alone["allocation"]}


def test_what_cannot_be_read_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    """And makes the answer incomplete."""
    assert main(["folio", *OPTIONS, "--path", "offline", hex(LEFT_OUT)]) == 2
    assert f"INCOMPLETE: {LEFT_OUT:#x}: who allocated it cannot be read" in capsys.readouterr().out


def test_a_kernel_without_it_lacks_nothing() -> None:
    """Most have none."""
    fixture = Fixture(BUNDLED)
    assert fixture.context.allocation(fixture.node1.start) is None
    assert fixture.context.doubts.notes == []


def test_absurd_stacks_are_not_followed() -> None:
    """A length that cannot be: neither a million reads nor a traceback."""
    context = opened()
    owner = context._page_owner
    assert owner is not None
    read: list[int] = []
    length = owner._stack.read

    def longer(address: int) -> dict[str, int]:
        read.append(address)
        return {**length(address), "size": MAX_FRAMES + 1}

    owner._stack.read = longer  # type: ignore[method-assign]
    with pytest.raises(FaultError, match="a stack of 257 frames"):
        context.allocation(said("base")["pfn"])
    assert len(read) == 1
