# SPDX-License-Identifier: LGPL-2.1-or-later
"""The bulk reader on struct pages in states that no guest of the lab can be brought into."""

from __future__ import annotations

import numpy
import pytest
from drgn import FaultError

from drgn_thp.kernel import Kernel
from drgn_thp.memmap import Memmap, is_mask
from drgn_thp.pagetype import PageType

from .memory import CLEARED_BITS, SIZE, TOP_BYTE, VMEMMAP, Memory, layout

NEW = Kernel()
OLD = Kernel(large_mapcount=False, pmd_maps_counted_in_subpages=True)
both_encodings = pytest.mark.parametrize("masks", [False, True], ids=["pointers", "masks"])


def rows(memmap: Memmap, pfn: int, count: int) -> dict[int, int]:
    """Return the order of every folio that a chunk is found to hold."""
    chunk = memmap.read(pfn, count)
    live = memmap.live(chunk)
    found = memmap.rows(chunk, live.rows)
    return dict(zip(found.pfn.tolist(), found.order.tolist()))


@both_encodings
def test_only_folios_are_rows(masks: bool) -> None:
    """Free pages and tails are not; a tail with a map count of its own is one still."""
    memory = Memory(64, layout(masks), NEW)
    memory.put(1, "lru", refcount=1, mapcount=1)
    memory.put(2, type_word=0xF0000000)  # the first page of a free block
    memory.compound(16, 3, "lru", refcount=8, mapcount=8)
    memory.put(20, word=memory.tail_word(16, 3), mapcount=1)
    assert rows(memory.memmap(), 0, 64) == {1: 0, 2: 0, 16: 3}


@both_encodings
def test_head_of_any_page(masks: bool) -> None:
    """The folio of a tail is its head's, whichever way tails say so."""
    memory = Memory(64, layout(masks), NEW)
    memory.compound(32, 4, "lru", refcount=1)
    memmap = memory.memmap()
    assert {memmap.head_pfn(pfn) for pfn in range(32, 48)} == {32}
    assert memmap.head_pfn(31) == 31
    assert memmap.head_pfn(48) == 48


def test_pointers_where_masks_could_be() -> None:
    """A kernel whose member may hold masks has pointers if its struct page is no power of two."""
    memory = Memory(64, layout(masks=True), NEW)
    memory.compound(32, 4, "lru", refcount=1)
    memory.put(40, word=VMEMMAP + 32 * SIZE | 1)
    assert memory.memmap().head_pfn(40) == 32


@pytest.mark.parametrize("order", [1, 2, 9, 18])
def test_masks_are_told_from_pointers(order: int) -> None:
    assert is_mask((-(SIZE << order)) & 0xFFFFFFFFFFFFFFFF | 1, SIZE)
    assert not is_mask(VMEMMAP + (SIZE << order) + SIZE | 1, SIZE)


def test_fake_heads_of_optimised_hugetlb_are_tails() -> None:
    """
    HugeTLB vmemmap optimisation maps the struct pages of the tails onto the page that holds the head.

    Every struct page at the start of a page then reads as the head, which none of the lab's small guests shows.
    """
    memory = Memory(1024, layout(), NEW, first_pfn=512)
    memory.compound(512, 9, refcount=1, type_word=0xF4000000)
    first = bytes(memory.data[:4096])
    for page in range(1, 8):
        memory.data[page * 4096 : (page + 1) * 4096] = first
    memmap = memory.memmap()
    assert rows(memmap, 512, 1024) == {512: 9}
    assert memmap.head_pfn(512 + 64) == 512
    assert memmap.head_pfn(512 + 65) == 512
    # Cut into pieces, as where a chunk could not be read in one.
    assert rows(memmap, 512 + 64, 64) == {}


def test_free_hugetlb_of_old_kernels_is_found() -> None:
    """It has neither references nor a type there, nothing but a head's flag and a destructor."""
    memory = Memory(1024, layout(types=CLEARED_BITS, hugetlb_dtor=2), OLD)
    memory.compound(512, 9)
    assert rows(memory.memmap(), 0, 1024) == {512: 9}


def test_frozen_folio_is_found() -> None:
    """A migration or split that holds the folio has set its reference count to 0."""
    memory = Memory(64, layout(), NEW)
    memory.put(5, "locked", "lru", "swapbacked", mapping=0xFFFF888000000001)
    assert rows(memory.memmap(), 0, 64) == {5: 0}


def test_frozen_slab_is_found() -> None:
    """Slab pages of new kernels have no references, only a type."""
    memory = Memory(64, layout(), NEW)
    memory.put(5, type_word=0xF5000001)
    assert rows(memory.memmap(), 0, 64) == {5: 0}


def test_never_initialised_struct_pages_are_counted() -> None:
    """All ones (PagePoisoned): no folio, and no tail either."""
    memory = Memory(64, layout(), NEW)
    memory.data[8 * SIZE : 12 * SIZE] = b"\xff" * (4 * SIZE)
    memmap = memory.memmap()
    live = memmap.live(memmap.read(0, 64))
    assert live.poisoned == 4
    assert not len(live.rows)


@pytest.mark.parametrize("order", [0, 40, 63, 255])
def test_absurd_orders_are_broken(order: int) -> None:
    """A head whose order fits no page frame is one page, and says so."""
    memory = Memory(64, layout(), NEW)
    memory.compound(3, 2, "lru", refcount=1)  # not aligned to its own size, too
    memory.compound(16, 2, "lru", refcount=1)
    memory.data[17 * SIZE] = order
    memmap = memory.memmap()
    chunk = memmap.read(0, 64)
    found = memmap.rows(chunk, memmap.live(chunk).rows)
    assert found.pfn.tolist() == [3, 16]
    assert found.broken.tolist() == [True, True]
    assert found.order.tolist() == [0, 0]


def test_a_head_at_the_end_of_a_piece_is_broken_not_read_beyond() -> None:
    memory = Memory(64, layout(), NEW)
    memory.put(63, "head", "lru", refcount=1)
    memmap = memory.memmap()
    chunk = memmap.read(0, 64)
    assert memmap.rows(chunk, memmap.live(chunk).rows).broken.tolist() == [True]


def test_small_neighbours_are_not_taken_for_struct_pages_of_the_folio() -> None:
    """An order-1 folio has two struct pages; the third fact-bearing one would be its neighbour's."""
    memory = Memory(64, layout(), NEW)
    memory.compound(2, 1, "lru", refcount=3, mapcount=2)
    memory.put(4, "lru", refcount=9, mapcount=1)
    memmap = memory.memmap()
    f = memmap.folios(memmap.read_folio(3))
    assert (int(f.order[0]), int(f.refcount[0]), int(f.large_mapcount[0])) == (1, 3, 2)


def test_subpage_mapcounts_are_summed_where_no_total_is_kept() -> None:
    memory = Memory(1024, layout(types=CLEARED_BITS), OLD)
    memory.compound(512, 9, "lru", refcount=5)
    for pfn in (600, 700, 1023):
        memory.put(pfn, word=memory.tail_word(512, 9), mapcount=2)
    memmap = memory.memmap()
    chunk = memmap.read(0, 1024)
    found = memmap.rows(chunk, memmap.live(chunk).rows)
    assert found.subpage_mapcounts.tolist() == [6]
    assert memmap.read_folio(1000).subpage_mapcounts.tolist() == [6]


@pytest.mark.parametrize(
    "free_order", [None, 9, 10], ids=["looked at in full", "free blocks of 512", "free blocks of 1024"]
)
def test_skipping_free_blocks_finds_the_same(free_order: int | None) -> None:
    """Struct pages that a free block or a large folio covers are skipped by groups; everything else is still found."""
    memory = Memory(8192, layout(), NEW)
    expected = {}
    if free_order is not None:
        for pfn in range(2048, 8192, 1 << free_order):
            memory.put(pfn, type_word=0xF0000000, private=free_order)
            expected[pfn] = 0
    memory.compound(512, 9, "lru", refcount=1, mapcount=1)
    memory.put(1030, "lru", refcount=1, mapcount=1)
    memory.put(2047, "locked")
    memory.put(0, type_word=0xF0000000, private=5)  # covers less than a group
    memory.put(40, "lru", refcount=1)
    found = rows(memory.memmap(), 0, 8192)
    assert {512: 9, 1030: 0, 2047: 0, 0: 0, 40: 0}.items() <= found.items()
    assert set(found) - {512, 1030, 2047, 0, 40} <= set(expected)


@pytest.mark.parametrize("order", [11, 60, 0xFFFFFFFFFFFFFFFF])
def test_absurd_free_blocks_hide_nothing(order: int) -> None:
    """A free block larger than the allocator has, or not where one can be, covers only its own struct page."""
    memory = Memory(8192, layout(), NEW)
    for pfn in range(2048, 8192, 1024):  # most of it is free, so that it pays to skip
        memory.put(pfn, type_word=0xF0000000, private=10)
    memory.put(0, type_word=0xF0000000, private=order)
    memory.put(512, type_word=0xF0000000, private=10)  # an odd place for 1024 pages
    memory.put(700, "lru", refcount=2, mapcount=1)
    memory.put(1100, "lru", refcount=2, mapcount=1)
    assert {700, 1100} <= set(rows(memory.memmap(), 0, 8192))


def test_unreadable_struct_pages_raise() -> None:
    memory = Memory(64, layout(), NEW)
    with pytest.raises(FaultError):
        memory.memmap().read(32, 64)


@pytest.mark.parametrize(
    ("encoding", "word", "page_type"),
    [
        (TOP_BYTE, 0xFFFFFFFF, PageType.NONE),
        (TOP_BYTE, 0x00000005, PageType.NONE),
        (TOP_BYTE, 0xF0000000, PageType.BUDDY),
        (TOP_BYTE, 0xF5000123, PageType.SLAB),
        (TOP_BYTE, 0xEE000000, PageType.OTHER),
        (CLEARED_BITS, 0xFFFFFFFF, PageType.NONE),
        (CLEARED_BITS, 0xFFFFFFFE, PageType.NONE),
        (CLEARED_BITS, 0xFFFFFF7F, PageType.BUDDY),
        (CLEARED_BITS, 0xFFFFFDFF, PageType.TABLE),
        (CLEARED_BITS, 0x80000000, PageType.OTHER),
    ],
)
def test_page_types(encoding: object, word: int, page_type: PageType) -> None:
    """Map count and page type share a word; a map count of -1 or more is no type in any encoding."""

    assert isinstance(encoding, type(TOP_BYTE))
    assert encoding.decode(numpy.array([word], numpy.uint32)).tolist() == [page_type]


def test_free_blocks_are_taken_at_their_word() -> None:
    """Behind free memory only the first page of each block is read, up to the first that is not free, or the end."""
    memory = Memory(8192, layout(), NEW)
    for pfn in range(0, 4096, 1024):
        memory.put(pfn, type_word=0xF0000000, private=10)
    memory.put(4096, type_word=0xF0000000, private=9)
    memory.put(4608, type_word=0xF0000000, private=3)  # too small to be worth it
    memmap = memory.memmap()
    assert memmap.free_until(0, 8192) == 4608
    assert memmap.free_until(0, 3000) == 3000
    assert memmap.free_until(512, 8192) == 512
    assert memmap.free_until(8192, 9000) == 8192  # not readable: left to whoever counts that


@pytest.mark.parametrize("order", [11, 1 << 40, 0xFFFFFFFFFFFFFFFF])
def test_absurd_free_blocks_are_not_taken_at_their_word(order: int) -> None:
    memory = Memory(2048, layout(), NEW)
    memory.put(0, type_word=0xF0000000, private=order)
    memory.put(512, type_word=0xF0000000, private=10)
    assert memory.memmap().free_until(0, 2048) == 0
    assert memory.memmap().free_until(512, 2048) == 512
