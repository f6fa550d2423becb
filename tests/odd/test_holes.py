# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Dumps in which something is missing: each thing that the analysis reads is taken away, one at a time.

What does not need it must be answered as from the whole dump. What does must be said to be missing, with status 2; and
where nothing can be said at all, in one line, with status 3.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Callable

import pytest

from drgn_thp.cli.common import FAILED, INCOMPLETE, REFUSALS

from .command import Outcome, held, one_line, without
from .conftest import Odd
from .cores import Core
from .places import Hole, Places

pytestmark = pytest.mark.vm


@pytest.fixture(scope="module")
def places(odd: Odd) -> Places:
    return Places(odd.dump)


@dataclass(frozen=True)
class Case:
    """
    :ivar named: A word of what the report must say is missing; empty if nothing of the answer is.
    :ivar needed: For which folios it decides something: they are refused then, rather than taken for fine.
    """

    holes: Callable[[Places], list[Hole]]
    named: str
    needed: Callable[[dict[str, Any]], bool] = lambda record: False


def is_batched(record: dict[str, Any]) -> bool:
    return bool(record["batches"])


def is_hugetlb(record: dict[str, Any]) -> bool:
    return bool(record["type"] == "hugetlb")


def first_block(places: Places) -> range:
    """Return the page frames of the first memory block of node 1."""
    start = places.dump.hotplug_pfns.start
    return range(start, start + (1 << 15))


CASES = {
    "memory blocks": Case(Places.memory_blocks, "memory blocks are derived"),
    "size of memory blocks": Case(lambda p: p.variable("sections_per_block"), "memory blocks are derived"),
    "pageblock flags": Case(lambda p: p.usages(p.dump.hotplug_pfns), "pageblock flags could not be read"),
    "node 1": Case(lambda p: p.node(1), "zones cannot be read"),
    "list of nodes": Case(lambda p: p.variable("node_data"), "cannot be read"),
    "masks of nodes": Case(lambda p: p.variable("node_states"), "nodes cannot be read"),
    "batches of CPU 1": Case(lambda p: p.per_cpu_area(1), "of CPU 1", is_batched),
    "mask of CPUs": Case(lambda p: p.variable("__cpu_possible_mask"), "list of CPUs", is_batched),
    "pools of huge pages": Case(lambda p: p.variable("hstates"), "pools of huge pages", is_hugetlb),
    # Found by the sections as well.
    "address of the memmap": Case(lambda p: p.variable("vmemmap_base"), ""),
    "resources": Case(Places.resources, "iomem_resource"),
    "huge zero page": Case(
        lambda p: p.variable("huge_zero_folio" if "huge_zero_folio" in p.prog else "huge_zero_page"), "huge_zero_"
    ),
    "names of the system": Case(lambda p: p.variable("init_uts_ns"), ""),
    "contents of node 1": Case(lambda p: [(p.dump.hotplug_pfns.start << 12, len(p.dump.hotplug_pfns) << 12)], ""),
    "firmware": Case(lambda p: [(0xFFFC0000, 0x40000)], ""),
}


def ask(odd: Odd, holes: list[Hole]) -> Iterator[Outcome]:
    """Report on the core with holes, by the types in the core itself where it has them."""
    odd.core.remove(holes)
    for way in odd.ways[-1:]:
        yield odd.report(odd.core.path, way)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_rest_is_answered_as_from_the_whole_dump(odd: Odd, places: Places, case: Case) -> None:
    """The refused folios of node 1 do not follow from any of these; that they are fine would not be known."""
    for outcome in ask(odd, case.holes(places)):
        assert not outcome.errors
        assert case.named in outcome.incomplete
        assert outcome.status == (INCOMPLETE if case.named else REFUSALS), outcome.incomplete
        if not case.named:
            assert outcome.incomplete == ""
        whole, found = odd.whole.folios, outcome.folios
        differing = {key for key in whole.keys() | found.keys() if whole.get(key) != found.get(key)}
        needing = {pfn for (pfn, _), record in whole.items() if case.needed(record)}
        unexplained = sorted(key for key in differing if key[0] not in needing)
        assert not unexplained, [(whole.get(key), found.get(key)) for key in unexplained[:5]]
        assert {key for key in whole if key[1] == "contig"} <= found.keys()


def test_derived_blocks_are_those_of_the_kernel(odd: Odd, places: Places) -> None:
    """Sections tell where blocks are; that they are derived is said of each."""
    for outcome in ask(odd, places.memory_blocks()):
        assert all(block["derived"] for block in outcome.blocks)
        assert without(outcome.blocks, "derived") == without(odd.whole.blocks, "derived")
        assert any("derived from the sections" in note for note in outcome.summary["notes"])


def test_size_of_blocks_is_not_guessed_in_silence(odd: Odd, places: Places) -> None:
    """Half a block cannot be offlined: whoever acts on the size must know that it is not the kernel's word."""
    for outcome in ask(odd, places.variable("sections_per_block")):
        assert all(block["derived"] for block in outcome.blocks)
        assert any("sections_per_block" in note for note in outcome.summary["notes"])


def test_unreadable_pageblocks_leave_no_block_fine(odd: Odd, places: Places) -> None:
    """One isolated pageblock would refuse the block: "yes" would be a guess."""
    for outcome in ask(odd, places.usages(odd.dump.hotplug_pfns)):
        # Of free memory nobody asks: a block without a folio is fine.
        blocks = [block for block in outcome.blocks if block["folios"]]
        verdicts = {block["paths"][path]["verdict"] for block in blocks for path in ("contig", "offline")}
        assert not verdicts & {"yes", "later"}


def test_missing_struct_pages_are_counted(odd: Odd, places: Places) -> None:
    """All of one memory block's: it is unknown, and every other as it was."""
    lost = first_block(places)
    for outcome in ask(odd, places.pages(range(lost.start, lost.stop, 64)) + memmap_of(places, lost)):
        assert outcome.status == INCOMPLETE
        assert f"{len(lost)} struct pages could not be read" in outcome.incomplete
        (block,) = (block for block in outcome.blocks if block["start_pfn"] == lost.start)
        assert block["unreadable_pages"] == len(lost)
        assert {block["paths"][path]["verdict"] for path in ("contig", "offline")} == {"unknown"}
        assert [b for b in outcome.blocks if b is not block] == odd.whole.blocks[1:]
        kept = {key: record for key, record in odd.whole.folios.items() if key[0] not in lost}
        assert outcome.folios == kept


def memmap_of(places: Places, pfns: range) -> list[Hole]:
    """Return where all struct pages of a range of page frames are."""
    page = places.prog.type("struct page")
    assert page.size is not None
    start = int(places.prog["vmemmap"].value_()) + pfns.start * page.size
    return list(places.physical(start, len(pfns) * page.size))


def test_folios_of_unreadable_files_are_in_doubt(odd: Odd, places: Places) -> None:
    """What refuses for the sake of a file system (secretmem, dirty pages of ramfs) must not turn into "fine"."""
    for outcome in ask(odd, places.address_spaces()):
        assert outcome.status == INCOMPLETE
        assert "address_spaces could not be read" in outcome.incomplete
        assert "folios may be refused for what their address_spaces" in outcome.incomplete
        assert {pfn for pfn, path in outcome.folios if path == "contig"} >= held(odd.dump)
        for key in odd.whole.folios.keys() - outcome.folios.keys():
            assert odd.whole.folios[key]["type"] == "file"
        assert not outcome.folios.keys() - odd.whole.folios.keys()
        for whole, block in zip(odd.whole.blocks, outcome.blocks):
            for path in ("contig", "offline"):
                verdict = block["paths"][path]["verdict"]
                assert verdict == whole["paths"][path]["verdict"] or verdict == "unknown"


def test_without_slab(odd: Odd, places: Places) -> None:
    """What makedumpfile leaves of kernels that are too new for it; sections, blocks and files go at once."""
    for outcome in ask(odd, places.slab()):
        assert outcome.status == INCOMPLETE, outcome.errors
        assert not outcome.errors
        for words in ("memory blocks are derived", "address_spaces could not be read"):
            assert words in outcome.incomplete
        contig = {pfn for pfn, path in outcome.folios if path == "contig"}
        assert contig >= held(odd.dump)
        undecided = {key for key, record in outcome.folios.items() if record["mapping"] == "unreadable"}
        for key, record in outcome.folios.items():
            if key not in undecided:
                assert record == odd.whole.folios[key]


def test_kernel_text_is_read_only_where_it_decides(odd: Odd, places: Places) -> None:
    """Machine code tells the two forms of the racy check apart, up to 6.9; without it, the release is a guess."""
    for outcome in ask(odd, places.function("isolate_migratepages_block")):
        doubtful = odd.version < (6, 10)
        assert outcome.summary["racy_check"]["doubtful"] == doubtful
        assert outcome.status == (INCOMPLETE if doubtful else REFUSALS)
        assert ("isolate_migratepages_block" in outcome.incomplete) == doubtful
        assert outcome.folios == odd.whole.folios


FATAL: dict[str, Callable[[Places], list[Hole]]] = {
    "table of sections": Places.section_table,
    "sections": Places.section_roots,
    "page tables": lambda p: list(p.physical(int(p.prog["init_mm"].pgd), 4096)),
    "all of the memmap": lambda p: [h for pfns in p.present_ranges() for h in memmap_of(p, pfns)],
}


@pytest.mark.parametrize("holes", FATAL.values(), ids=FATAL)
def test_nothing_can_be_said(odd: Odd, places: Places, holes: Callable[[Places], list[Hole]]) -> None:
    """One line that says what, and no half of a report."""
    for outcome in ask(odd, holes(places)):
        assert outcome.status == FAILED
        assert outcome.records == ()
        assert one_line(outcome.errors)


def test_end_is_cut_off(odd: Odd) -> None:
    """A disk that was full: of node 1 the contents go first, which nobody needs; then everything does."""
    core = Core(odd.dump.vmcore, odd.directory / "cut")
    core.mend()
    node_1 = len(odd.dump.hotplug_pfns) << 12
    core.cut_off(node_1 // 2)
    for way in odd.ways:
        outcome = odd.report(core.path, way)
        assert outcome.folios == odd.whole.folios
        assert outcome.status == REFUSALS, outcome.incomplete
        assert any("cut off" in note for note in outcome.summary["notes"])
    for removed in (50, 200, 400):
        core.cut_off(node_1 + (removed << 20))
        for way in odd.ways:
            outcome = odd.report(core.path, way)
            assert outcome.status in (INCOMPLETE, FAILED), removed
            said = one_line(outcome.errors) if outcome.status == FAILED else "\n".join(outcome.summary["notes"])
            assert "cut off" in said
    core.path.unlink()
