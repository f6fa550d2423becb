# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The arithmetic on plain tables: states whose counts are known from the kernel's rules, on each generation of kernels.

Real memory is the judge of the decoding; these cases are for what every generation must make of the same facts.
"""

from __future__ import annotations

from typing import Any

import pytest

from drgn_thp import formulas
from drgn_thp.folios import Folios, table
from drgn_thp.kernel import Kernel, RacyCheck
from drgn_thp.pagetype import PageType

ANON, KSM, FILE = 0xFFFF888000000001, 0xFFFF888000000003, 0xFFFF888000000010

OLD = Kernel(
    release="5.10",
    racy_check=RacyCheck(True, "test"),
    large_mapcount=False,
    pmd_maps_counted_in_subpages=True,
    pincount_from_order=2,
    private_2_holds_reference=True,
    hugetlb_cache_holds_one=True,
    mm_ids=False,
    compaction_takes_large_folios=False,
    contig_migrates_hugetlb=False,
    lru_cache_disable=False,
    movable_ops_by_type=False,
    fallback_writes_out=True,
    offline_skips_poisoned_large=False,
)
MIDDLE = Kernel(
    release="6.12", mm_ids=False, likely_mapped_shared=True, movable_ops_by_type=False, fallback_writes_out=True
)
NEW = Kernel(release="7.3")
KERNELS = [OLD, MIDDLE, NEW]
by_release = pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.release)


def folio(kernel: Kernel, **facts: Any) -> Folios:
    """Return a table of one folio: unmapped, on the LRU, unless the facts say otherwise."""
    facts.setdefault("lru", True)
    facts["type_word"] = (facts.pop("mapcount", 0) - 1) & 0xFFFFFFFF
    return table(kernel, {name: [value] for name, value in facts.items()}, {"zone": kernel.zone_movable})


def thp(kernel: Kernel, pmd: int, ptes: int, **facts: Any) -> Folios:
    """
    Return an anonymous THP mapped by some PMDs, and by some PTEs none of which maps its head.

    :param ptes: Pages of it that have one PTE each
    """
    facts.setdefault("mapping", ANON)
    double = kernel.pmd_maps_counted_in_subpages and pmd > 0 and ptes > 0
    return folio(
        kernel,
        order=9,
        entire_mapcount=pmd,
        double_map=double,
        # With PG_double_map every subpage counts one more.
        subpage_mapcounts=ptes + 512 * double,
        mapcount=int(double),
        large_mapcount=pmd + ptes,
        swapbacked=True,
        **facts,
    )


def value(function: Any, f: Folios) -> int:
    return int(function(f)[0])


@by_release
@pytest.mark.parametrize(("pmd", "ptes"), [(1, 0), (2, 0), (0, 511), (1, 511), (3, 100)])
def test_mapcount_of_a_thp_counts_entries(kernel: Kernel, pmd: int, ptes: int) -> None:
    """A PMD counts one and each PTE counts one, however the kernel spreads them over its counters."""
    assert value(formulas.folio_mapcount, thp(kernel, pmd, ptes)) == pmd + ptes


@by_release
def test_pmd_mapped_head_page_counts_the_pmd(kernel: Kernel) -> None:
    """page_mapcount() of a page that only PMDs map, which the old racy check compares with."""
    assert value(formulas.page_mapcount, thp(kernel, 2, 0)) == 2
    assert value(formulas.page_mapcount, thp(kernel, 1, 300)) == 1


def test_file_thp_of_old_kernels_has_pmd_mappings_in_every_subpage() -> None:
    """Until v6.2 each PMD mapping of a file THP was counted 513 times."""
    f = folio(OLD, order=9, mapping=FILE, entire_mapcount=2, subpage_mapcounts=2 * 512 + 5, mapcount=2, refcount=519)
    assert value(formulas.folio_mapcount, f) == 7
    assert value(formulas.page_mapcount, f) == 2
    assert value(formulas.folio_expected_ref_count, f) == 519


@by_release
def test_typed_page_has_no_mapcount(kernel: Kernel) -> None:
    """The word is shared: a slab or page table must not come out as mapped four billion times."""
    f = folio(kernel, type=PageType.TABLE, mapcount=-200, refcount=1, lru=False)
    assert value(formulas.folio_mapcount, f) == 0
    assert value(formulas.extra_references, f) == 0


@by_release
@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"mapping": ANON, "mapcount": 3}, 3),
        ({"mapping": KSM, "mapcount": 3}, 3),
        ({"mapping": FILE, "mapcount": 2}, 3),
        ({"mapping": FILE, "private_flag": True}, 2),
        ({"mapping": ANON, "mapcount": 1, "swapbacked": True, "swapcache_bit": True}, 2),
        # A shmem folio in the swap cache has no mapping.
        ({"mapping": 0, "swapbacked": True, "swapcache_bit": True}, 1),
        # The bit means something else on a folio of a filesystem.
        ({"mapping": FILE, "swapcache_bit": True}, 1),
        # PG_private of an anonymous folio is no reference.
        ({"mapping": ANON, "mapcount": 1, "private_flag": True}, 1),
        ({"mapping": 0, "private_flag": True}, 1),
    ],
)
def test_expected_references_of_small_folios(kernel: Kernel, facts: dict[str, Any], expected: int) -> None:
    """The at-rest value of kernel-semantics: mappings + caches + private."""
    assert value(formulas.folio_expected_ref_count, folio(kernel, **facts)) == expected


@by_release
def test_caches_hold_a_reference_per_page(kernel: Kernel) -> None:
    """The folio_nr_pages() references of the thread: one for each index in the mapping."""
    assert value(formulas.folio_expected_ref_count, thp(kernel, 1, 0, swapcache_bit=True)) == 513
    assert value(formulas.page_cache_references, folio(kernel, order=4, mapping=FILE)) == 16


def test_private_2_counts_before_folios() -> None:
    """5.10's expected_page_refs() asked page_has_private(), which is either flag; and either makes one reference."""
    for flags, count in (({"private_2": True}, 2), ({"private_2": True, "private_flag": True}, 2)):
        assert value(formulas.folio_expected_ref_count, folio(OLD, mapping=FILE, **flags)) == count
    assert value(formulas.folio_expected_ref_count, folio(NEW, mapping=FILE, private_2=True)) == 1


def test_hugetlb_cache_references() -> None:
    """One per folio until v6.7, then one per page, as for everything else in the page cache."""
    facts = {"order": 9, "type": PageType.HUGETLB, "mapping": FILE, "entire_mapcount": 1, "large_mapcount": 1}
    assert value(formulas.folio_expected_ref_count, folio(OLD, lru=False, **facts)) == 2
    assert value(formulas.folio_expected_ref_count, folio(NEW, lru=False, **facts)) == 513


@by_release
def test_batches_are_taken_off(kernel: Kernel) -> None:
    """A folio in a per-CPU batch is not pinned."""
    f = folio(kernel, mapping=ANON, mapcount=1, refcount=2, batches=1)
    assert value(formulas.extra_references, f) == 0
    assert not value(formulas.folio_maybe_additionally_referenced, f)


@by_release
@pytest.mark.parametrize(
    ("facts", "lost"),
    [
        ({"refcount": 511}, 511),
        ({"refcount": 2 * 511}, 2 * 511),
        ({"refcount": 0}, 0),
        ({"refcount": 512}, 0),  # by one who isolated it, at least
        ({"refcount": 511, "batches": 2 * 511}, 0),  # nonsense, as damage makes it
        ({"refcount": 511, "lru": True}, 0),
        ({"refcount": 511, "locked": True}, 0),
        ({"refcount": 511 + 512, "swapcache": True}, 0),
        ({"refcount": 511 + 1, "pmd": 1}, 0),
        ({"refcount": 511 + 1, "ptes": 1}, 0),
        ({"refcount": 511, "mapping": FILE}, 0),
    ],
)
def test_lost_references(kernel: Kernel, facts: dict[str, int], lost: int) -> None:
    """As the scenario thp_lost shows them; whoever has anything of the THP may be who has its references."""
    f = thp(kernel, **{"pmd": 0, "ptes": 0, "lru": False, **facts})
    assert value(formulas.lost_references, f) == lost
    assert value(formulas.lost_references, folio(kernel, mapping=ANON, refcount=511, lru=False)) == 0


@by_release
def test_pins_of_small_and_large_folios(kernel: Kernel) -> None:
    """FOLL_PIN adds 1024 references to a small folio, and counts exactly on a large one."""
    small = folio(kernel, mapping=ANON, mapcount=1, refcount=1 + 2 * 1024 + 3)
    assert value(formulas.folio_maybe_dma_pinned, small)
    assert value(formulas.pins, small) == 2
    large = thp(kernel, 1, 0, refcount=4, pincount=3)
    assert value(formulas.folio_maybe_dma_pinned, large)
    assert value(formulas.pins, large) == 3
    assert not value(formulas.folio_maybe_dma_pinned, thp(kernel, 1, 0, refcount=4))
    assert not value(formulas.folio_maybe_dma_pinned, folio(kernel, mapping=ANON, mapcount=1000, refcount=1023))


@by_release
def test_negative_refcount_is_large_as_in_the_kernel(kernel: Kernel) -> None:
    """page_maybe_dma_pinned() looks at the count as unsigned: an overflown one counts as pinned."""
    assert value(formulas.folio_maybe_dma_pinned, folio(kernel, mapping=ANON, refcount=-1))


@by_release
def test_can_split_folio(kernel: Kernel) -> None:
    """References of the caches and of private data do not stand in the way of a split, all others do."""
    assert value(formulas.can_split_folio, thp(kernel, 1, 0, refcount=1))
    assert value(formulas.can_split_folio, thp(kernel, 1, 7, refcount=520, swapcache_bit=True))
    assert not value(formulas.can_split_folio, thp(kernel, 1, 0, refcount=2))
    assert int(formulas.can_split_folio(thp(kernel, 1, 0, refcount=2), 1)[0])


@by_release
def test_write_protect_page_balance(kernel: Kernel) -> None:
    """KSM merges a page only if its references are its mappings, and the swap cache's one."""
    assert value(formulas.write_protect_page_balance, folio(kernel, mapping=ANON, mapcount=2, refcount=2)) == 0
    cached = folio(kernel, mapping=ANON, mapcount=1, refcount=3, swapbacked=True, swapcache_bit=True)
    assert value(formulas.write_protect_page_balance, cached) == 1


def test_shared_by_each_generations_guess() -> None:
    """The same THPs, asked whether they are shared, get the answer that each kernel gives."""
    in_two = {"mm_ids": 1 << 63}
    assert value(formulas.folio_maybe_mapped_shared, thp(NEW, 2, 0, **in_two))
    assert not value(formulas.folio_maybe_mapped_shared, thp(NEW, 0, 511))
    assert value(formulas.folio_maybe_mapped_shared, thp(MIDDLE, 1, 10))
    assert not value(formulas.folio_maybe_mapped_shared, thp(MIDDLE, 0, 511))
    assert not value(formulas.folio_maybe_mapped_shared, thp(OLD, 1, 0))
    assert value(formulas.folio_maybe_mapped_shared, thp(OLD, 2, 0))
    for kernel in KERNELS:
        assert value(formulas.folio_maybe_mapped_shared, folio(kernel, mapping=ANON, mapcount=2))
        assert not value(formulas.folio_maybe_mapped_shared, folio(kernel, mapping=ANON, mapcount=1))


@by_release
def test_isolated_and_frozen(kernel: Kernel) -> None:
    """Off the LRU with one reference too many: in somebody's hands. Without any, but locked: frozen."""
    assert value(formulas.is_isolated, folio(kernel, mapping=ANON, mapcount=1, refcount=2, lru=False))
    assert not value(formulas.is_isolated, folio(kernel, mapping=ANON, mapcount=1, refcount=3, lru=False))
    frozen = folio(kernel, mapping=ANON, refcount=0, locked=True)
    assert value(formulas.is_frozen, frozen)
    assert not value(formulas.is_free, frozen)


def test_movable_ops_by_generation() -> None:
    """Low bits of mapping until v6.17; since, a flag that means so only on two page types."""
    assert value(formulas.page_has_movable_ops, folio(MIDDLE, mapping=0xFFFF888000000002, lru=False))
    assert value(formulas.page_has_movable_ops, folio(NEW, type=PageType.OFFLINE, movable_ops_flag=True, lru=False))
    assert not value(formulas.page_has_movable_ops, folio(NEW, movable_ops_flag=True))


def test_a_formula_is_computed_once_per_table() -> None:
    """Gates of all paths ask for the same columns; the table remembers them."""
    f = thp(NEW, 1, 0, refcount=1)
    assert formulas.folio_mapcount(f) is formulas.folio_mapcount(f)
