# SPDX-License-Identifier: LGPL-2.1-or-later
"""The helpers in drgn's conventions, on every fixture: any page of a folio, either type of pointer, any program."""

from __future__ import annotations

from typing import Any, Callable

import drgn
import pytest
from drgn import Object, cast
from drgn.helpers.linux.mm import for_each_memory_block, page_to_pfn, pfn_to_page

import drgn_thp
from drgn_thp.commands.memblocks import scan
from drgn_thp.errors import BadArgument
from drgn_thp.session import Session
from tests.fixture import Fixture

BLOCK = 32
KPF = {
    "folio_test_lru": 5,
    "folio_test_swapbacked": 14,
    "folio_test_unevictable": 18,
    "folio_test_hugetlb": 17,
    "folio_test_anon": 12,
}
KPF_BUDDY, KPF_TAIL = 10, 16


def helper(name: str) -> Callable[..., Any]:
    function: Callable[..., Any] = getattr(drgn_thp, name)
    return function


def pfn_of(folio: Object) -> int:
    return int(page_to_pfn(cast("struct page *", folio)))


def test_folios_of_a_block(fixture: Fixture) -> None:
    """By number or by struct memory_block; as many as a scan counts; none of them a tail."""
    by_number = [pfn_of(folio) for folio in helper("for_each_folio")(fixture.prog, BLOCK)]
    block = next(b for b in for_each_memory_block(fixture.prog) if int(b.start_section_nr) == BLOCK)
    by_object = list(helper("for_each_folio")(block))
    assert by_number == [pfn_of(folio) for folio in by_object]
    assert all(folio.type_.type.tag == "folio" for folio in by_object)
    (census,) = scan(Session.of(fixture.prog), ["contig"], [str(BLOCK)], lists=False).value
    assert len(by_number) == census["folios"]
    start = fixture.node1.start
    assert not any(int(fixture.kpageflags[pfn - start]) >> KPF_TAIL & 1 for pfn in by_number)


def test_refused_folios(fixture: Fixture) -> None:
    """Those that the guest holds; of the default program, if none is named."""
    drgn.set_default_prog(fixture.prog)
    try:
        refused = [pfn_of(folio) for folio in helper("for_each_refused_folio")("contig", BLOCK)]
    finally:
        drgn.set_default_prog(None)
    assert refused == sorted(fixture.held())
    with pytest.raises(BadArgument, match="no path"):
        next(helper("for_each_refused_folio")(fixture.prog, "nonsense"))
    with pytest.raises(BadArgument, match="no such memory block"):
        next(helper("for_each_folio")(fixture.prog, 4000))


@pytest.mark.parametrize("name", KPF)
def test_predicates_say_what_the_guest_said(fixture: Fixture, name: str) -> None:
    """Of every page with which the program in the guest did something."""
    start, test = fixture.node1.start, helper(name)
    asked = 0
    for mark in fixture.marks:
        if mark.head in fixture.node1 and int(fixture.kpageflags[mark.pfn - start]) >> KPF_BUDDY & 1 == 0:
            # The guest shows flags of the very page, of which hugetlb's tails have none.
            flags = int(fixture.kpageflags[(mark.head if mark.kind == "hugetlb" else mark.pfn) - start])
            if name in ("folio_test_lru", "folio_test_swapbacked", "folio_test_unevictable"):
                flags = int(fixture.kpageflags[mark.head - start])
            assert test(pfn_to_page(fixture.prog, mark.pfn)) == bool(flags >> KPF[name] & 1), mark
            asked += 1
    assert asked > 100


def test_any_page_and_either_pointer(fixture: Fixture) -> None:
    """A tail stands for its folio, and a folio for its first page."""
    mark = next(mark for mark in fixture.marks if mark.scenario == "tmpfs_thp_mapped" and mark.pfn != mark.head)
    tail, head = pfn_to_page(fixture.prog, mark.pfn), pfn_to_page(fixture.prog, mark.head)
    folio = cast("struct folio *", head)
    by_page = {"page_mapcount", "read_folio", "read_page", "migration_verdict", "PageAnonExclusive", "PageBuddy"}
    for name in sorted(set(drgn_thp.__all__) - by_page - {"for_each_folio", "for_each_refused_folio"}):
        answers = [helper(name)(page) for page in (tail, head, folio)]
        assert all(answer == answers[0] for answer in answers), name
    assert {helper("migration_verdict")(page, "contig") for page in (tail, head, folio)} == {"ok"}


def test_zone_and_pageblock(fixture: Fixture) -> None:
    """Of memory of which it is known how it came online."""
    page = pfn_to_page(fixture.prog, fixture.node1.start)
    zone = helper("page_zone")(page)
    (known,) = (each for each in fixture.context.zones if each.address == zone.value_())
    assert (known.name, known.node) == ("MOVABLE", 1)
    assert int(zone.zone_start_pfn) == fixture.node1.start
    assert helper("get_pageblock_migratetype")(page).format_() == "(enum migratetype)MIGRATE_MOVABLE"
    with pytest.raises(BadArgument):
        helper("get_pageblock_migratetype")(pfn_to_page(fixture.prog, 1 << 35))
