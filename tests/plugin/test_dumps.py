# SPDX-License-Identifier: LGPL-2.1-or-later
"""Commands and scripts on whole dumps: addresses of processes, and 5.10, of which there is no fixture."""

from __future__ import annotations

import re
import runpy
import sys
from argparse import Namespace

import drgn
import pytest
from drgn.helpers.linux.list import list_for_each_entry

from drgn_thp.commands import ksm, swapcache, thp, virtio_mem
from drgn_thp.errors import BadArgument
from drgn_thp.ledger import parse_page
from drgn_thp.session import Session
from tests.engine.opened import Opened
from tests.tree import ROOT
from tests.vm.lab import ensure_dump
from tests.vm.matrix import KERNELS

pytestmark = pytest.mark.vm

EVERYWHERE = Namespace(blocks=[])


@pytest.fixture(scope="module", params=KERNELS, ids=lambda entry: entry.name)
def opened(request: pytest.FixtureRequest) -> Opened:
    """Each dump in turn."""
    return Opened(ensure_dump(request.param))


def heads(opened: Opened, *scenarios: str) -> set[int]:
    """Return the large anonymous folios that were put in these states, as the guest knows them."""
    marks = [mark for mark in opened.dump.marks if mark.scenario in scenarios and mark.kind.startswith("anon-")]
    return {opened.head_by_guest(mark.pfn) for mark in marks}


def deferred(opened: Opened) -> set[int]:
    """Return the folios on deferred split queues, by the lists themselves."""
    prog = opened.prog
    if "deferred_split_lru" in prog:  # 7.x
        lists = [node.lru.list.address_of_() for node in (prog["deferred_split_lru"].node[nid] for nid in range(2))]
    else:
        nodes = [prog["node_data"][nid] for nid in range(2)]
        queues = [owner.deferred_split_queue for owner in (*nodes, prog["root_mem_cgroup"])]
        lists = [queue.split_queue.address_of_() for queue in queues]
    try:
        type_, member = "struct folio", "_deferred_list"
        prog.type(type_).member(member)
    except LookupError:
        type_, member = "struct page", "deferred_list"
    found = set()
    for head in lists:
        for entry in list_for_each_entry(type_, head, member):
            page = entry.value_() - int(prog["vmemmap"].value_())
            # Until v6.2 the list was in the third struct page of the folio.
            found.add(page // drgn.sizeof(prog.type("struct page")) - (2 if type_ == "struct page" else 0))
    return found


def test_addresses_of_processes(opened: Opened) -> None:
    """Each page that the program in the guest marked, by the address that it has there."""
    mapped = [mark for mark in opened.dump.marks if mark.vaddr]
    assert len(mapped) > 50
    for mark in mapped:
        assert parse_page(opened.context, f"{mark.pid}:{mark.vaddr:#x}") == mark.pfn, mark
    for wrong, why in (("1:0x1000", "has no page there"), ("2:0x1000", "kernel thread"), ("999999:0", "no process")):
        with pytest.raises(BadArgument, match=why):
            parse_page(opened.context, wrong)


def test_lists(opened: Opened) -> None:
    """What the guest says of each page in /proc/kpageflags is what is listed."""
    session = Session.of(opened.prog)
    assert session.types_source.startswith("DWARF of ")
    flags = opened.dump.kpageflags
    listed = {record["pfn"]: record for record in thp.ask(session, EVERYWHERE).value}
    wanted = {opened.head_by_guest(mark.pfn) for mark in opened.dump.marks if mark.kind in ("anon-thp", "shmem-thp")}
    assert wanted <= set(listed)
    mapped = heads(opened, "thp_pmd", "thp_forked", "thp_pte", "thp_partial")
    assert {pfn for pfn in mapped if listed[pfn]["partially_mapped"]} == heads(opened, "thp_partial")
    assert {pfn for pfn in listed if listed[pfn]["deferred"]} == deferred(opened)
    cached = {record["pfn"]: record["order"] for record in swapcache.ask(session, EVERYWHERE).value}
    pages = {pfn + i for pfn, order in cached.items() for i in range(1 << order)}
    assert pages == {pfn for pfn in range(len(flags)) if int(flags[pfn]) != 0xFFFFFFFFFFFFFFFF and flags[pfn] >> 13 & 1}
    shared = {record["pfn"]: record["balance"] for record in ksm.ask(session, EVERYWHERE).value}
    assert shared == {mark.pfn: 0 for mark in opened.dump.marks if mark.kind == "ksm"}
    assert virtio_mem.ask(session, EVERYWHERE).value


def test_the_fixes_line(opened: Opened, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """5.10 has the bug, and both lines apply to it; the others have not."""
    monkeypatch.setattr(sys, "argv", ["misjudged_thps.py"])
    drgn.set_default_prog(opened.prog)
    try:
        runpy.run_path(str(ROOT / "contrib-scripts" / "misjudged_thps.py"), {}, "__main__")
    finally:
        drgn.set_default_prog(None)
    out = capsys.readouterr().out
    by_cow = {int(pfn, 16) for pfn in re.findall(r"pfn (0x[0-9a-f]+): .*v5\.8 line", out)}
    assert heads(opened, "thp_cow", "thp_cow_head") <= by_cow
    assert not by_cow & heads(opened, "thp_pmd", "thp_forked", "thp_pte", "thp_partial")
    if opened.version == (5, 10):
        assert len(re.findall(r"^Fixes: .* applies \(seen here\)$", out, re.MULTILINE)) == 2
    else:
        assert "neither Fixes line applies" in out
