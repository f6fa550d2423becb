# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Verdicts on plain tables: one state each, and what every path of each generation says of it.

The states follow the worked examples of the kernel's rules (who refuses what, and by which check first).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from drgn_thp import gates
from drgn_thp.errors import BadArgument
from drgn_thp.folios import Folios, table
from drgn_thp.gates import Duration
from drgn_thp.kernel import Kernel
from drgn_thp.mapping_kinds import MigrateOp
from drgn_thp.pagetype import PageType

from .test_formulas import ANON, FILE, KERNELS, MIDDLE, NEW, OLD, by_release, folio, thp


def verdict(path: str, f: Folios) -> str:
    """Return the first reason, or "ok"."""
    here = gates.find_path(path).of(f.kernel)
    primary = int(here.judge(f).primary[0])
    return "ok" if primary < 0 else here.gates[primary].reason.name


def duration(path: str, f: Folios) -> Duration:
    here = gates.find_path(path).of(f.kernel)
    return here.gates[int(here.judge(f).primary[0])].duration


def user(kernel: Kernel, **facts: Any) -> Folios:
    """Return a small anonymous folio, mapped once."""
    facts = {"mapping": ANON, "mapcount": 1, "refcount": 1, "swapbacked": True, "migrate_op": MigrateOp.PLAIN, **facts}
    return folio(kernel, **facts)


def kernels_own(kernel: Kernel, movable: bool = False, **facts: Any) -> Folios:
    zone = kernel.zone_movable if movable else 2
    return folio(kernel, lru=False, zone=zone, **{"refcount": 1, **facts})


@by_release
@pytest.mark.parametrize(
    "path", ["compaction", "compaction-sync", "contig", "mbind", "mbind-move-all", "offline", "split"]
)
def test_an_ordinary_page_is_refused_nowhere(kernel: Kernel, path: str) -> None:
    assert verdict(path, user(kernel)) == "ok"


@by_release
@pytest.mark.parametrize("path", sorted(gates.paths()))
def test_free_memory_is_no_obstacle(kernel: Kernel, path: str) -> None:
    assert verdict(path, kernels_own(kernel, type=PageType.BUDDY, refcount=0)) == "ok"
    assert verdict(path, kernels_own(kernel, refcount=0)) == "ok"


@by_release
def test_extra_reference(kernel: Kernel) -> None:
    """FOLL_GET: refused by all, and offlining never returns."""
    f = user(kernel, refcount=2)
    for path in ("compaction", "contig", "mbind", "offline"):
        assert verdict(path, f) == "extra-reference"
    assert duration("offline", f) is Duration.ENDLESS
    assert duration("contig", f) is Duration.PERMANENT
    assert verdict("split", f) == "ok"  # there is nothing to split


@by_release
def test_dma_pin(kernel: Kernel) -> None:
    assert verdict("contig", user(kernel, refcount=1025)) == "dma-pinned"
    pinned = thp(kernel, 1, 0, refcount=2, pincount=1)
    for path in ("contig", "offline", "split"):
        assert verdict(path, pinned) == "dma-pinned"


@by_release
def test_thp_by_ptes_is_misjudged_by_the_old_check_only(kernel: Kernel) -> None:
    """The bug of the thread: CMA and virtio-mem refuse, offlining and move_pages() do not."""
    f = thp(kernel, 0, 511, refcount=511)
    assert verdict("contig", f) == ("racy-pin-check" if kernel is OLD else "ok")
    for path in ("offline", "mbind-move-all", "split"):
        assert verdict(path, f) == "ok"
    here = gates.find_path("contig").of(OLD)
    assert [gate.wrongly for gate in here.gates if gate.reason.name == "racy-pin-check"] == [True]


@by_release
def test_thp_by_pmds_passes_the_old_check(kernel: Kernel) -> None:
    for mappings in (1, 2):
        assert verdict("contig", thp(kernel, mappings, 0, refcount=mappings)) == "ok"


@by_release
def test_swap_cache_is_exempt_from_the_racy_check(kernel: Kernel) -> None:
    """folio_mapping() is the swap address_space: a pin is found only when the mapping is moved."""
    cached = {"swapcache_bit": True, "swapbacked": True}
    assert verdict("contig", user(kernel, refcount=2, **cached)) == "ok"
    here = gates.find_path("contig").of(kernel)
    verdicts = here.judge(user(kernel, refcount=3, **cached))
    assert here.gates[int(verdicts.primary[0])].kernel.startswith("folio_migrate_mapping")


@by_release
def test_batched_folios(kernel: Kernel) -> None:
    """Paths that drain first move them; compaction does not drain, and neither does the test for unmovable pages."""
    waiting = user(kernel, refcount=2, batches=1, lru=False)
    assert verdict("compaction", waiting) == "lru-batch"
    assert verdict("mbind", waiting) == "ok"
    assert verdict("contig", waiting) == "ok"  # in ZONE_MOVABLE
    assert verdict("contig", user(kernel, refcount=2, batches=1, lru=False, zone=2)) == "lru-batch"
    offline = verdict("offline", user(kernel, refcount=2, batches=1, lru=False, zone=2))
    assert offline == ("lru-batch" if kernel is OLD else "ok")
    assert verdict("compaction", user(kernel, refcount=2, batches=1)) == "lru-batch"
    assert verdict("contig", user(kernel, refcount=2, batches=1)) == "ok"


@by_release
def test_isolated_is_transient(kernel: Kernel) -> None:
    f = user(kernel, refcount=2, lru=False)
    for path in ("compaction", "contig", "mbind", "offline"):
        assert verdict(path, f) == "isolated"
        assert duration(path, f) is Duration.TRANSIENT


@by_release
@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"type": PageType.SLAB}, "slab"),
        ({"type": PageType.TABLE}, "page-table"),
        ({}, "kernel-page"),
        ({"type": PageType.OTHER}, "kernel-page"),
    ],
)
def test_kernel_memory(kernel: Kernel, facts: dict[str, Any], reason: str) -> None:
    """Found before anything begins; but in ZONE_MOVABLE only at the end, when offlining goes round again."""
    assert verdict("contig", kernels_own(kernel, **facts)) == reason
    assert verdict("offline", kernels_own(kernel, **facts)) == reason
    assert duration("offline", kernels_own(kernel, **facts)) is Duration.PERMANENT
    assert verdict("offline", kernels_own(kernel, movable=True, refcount=2, **facts)) == reason
    assert duration("offline", kernels_own(kernel, movable=True, refcount=2, **facts)) is Duration.ENDLESS
    assert verdict("mbind", kernels_own(kernel, **facts)) == "ok"


@by_release
def test_what_is_being_allocated(kernel: Kernel) -> None:
    """A THP that is being cleared, and whatever lies in ZONE_MOVABLE without being anybody's, are soon something."""
    thp: dict[str, Any] = {"order": 9, "large_rmappable": True}
    for f in (kernels_own(kernel, movable=True), kernels_own(kernel, **thp), kernels_own(kernel, True, **thp)):
        assert verdict("offline", f) == "in-transit"
        assert duration("offline", f) is Duration.TRANSIENT
        assert verdict("contig", f) == "in-transit"
    for path in ("compaction", "contig", "mbind", "offline"):
        assert verdict(path, kernels_own(kernel)) != "in-transit"


@by_release
def test_a_page_that_ksm_gave_up_on(kernel: Kernel) -> None:
    """
    Its mapping is KSM's mark and no more.

    stable_tree_insert() fails, and break_cow() helps the process only that ksmd was looking at.
    """
    alone = user(kernel, mapping=3)
    for path in ("compaction", "compaction-sync", "contig", "mbind-move-all", "offline"):
        assert verdict(path, alone) == "ksm-alone"
    assert duration("offline", alone) is Duration.ENDLESS
    assert duration("contig", alone) is Duration.PERMANENT
    for f in (user(kernel, mapping=3, mapcount=0), user(kernel, mapping=ANON | 3)):
        assert verdict("offline", f) != "ksm-alone"


@by_release
def test_a_ring_that_is_mapped_by_a_driver(kernel: Kernel) -> None:
    """The process that maps it may ask for it, which it cannot for other kernel memory."""
    ring = kernels_own(kernel, mapcount=1, refcount=2)
    assert verdict("mbind", ring) == verdict("mbind-move-all", ring) == "kernel-page"


def test_frozen_slab_page_passes_the_first_test() -> None:
    """Since slab pages have no references, an order-0 one is taken for free, and offlining never ends."""
    f = kernels_own(NEW, type=PageType.SLAB, refcount=0)
    assert duration("offline", f) is Duration.ENDLESS
    assert verdict("contig", f) == "slab"


@by_release
def test_reserved_in_any_zone(kernel: Kernel) -> None:
    for movable in (False, True):
        assert verdict("offline", kernels_own(kernel, movable, reserved=True)) == "reserved"
        assert duration("offline", kernels_own(kernel, movable, reserved=True)) is Duration.PERMANENT


@by_release
def test_page_offline(kernel: Kernel) -> None:
    """A balloon's page stops offlining at once; virtio-mem's own is handed back."""
    balloon = {"type": PageType.OFFLINE}
    assert verdict("offline", kernels_own(kernel, movable=True, **balloon)) == "page-offline"
    assert verdict("contig", kernels_own(kernel, movable=True, **balloon)) == "page-offline"
    assert verdict("offline", kernels_own(kernel, movable=True, virtio_mem=True, **balloon)) == "ok"


@by_release
def test_locks_and_writeback(kernel: Kernel) -> None:
    """Those who may wait do, perhaps for ever; compaction passes on."""
    for fact, reason in (("locked", "locked"), ("writeback", "writeback")):
        f = user(kernel, mapping=FILE, mapcount=0, **{fact: True})
        assert verdict("offline", f) == reason
        assert duration("offline", f) is Duration.WILL_BLOCK
        assert verdict("compaction", f) == reason
        assert duration("compaction", f) is Duration.TRANSIENT


@by_release
def test_ramfs(kernel: Kernel) -> None:
    """Dirty for ever, and nobody to migrate it."""
    f = user(kernel, mapping=FILE, mapcount=0, dirty=True, migrate_op=MigrateOp.NONE)
    for path in ("contig", "mbind-move-all", "offline", "compaction"):
        assert verdict(path, f) == "no-migrate-op-dirty"
    assert duration("contig", f) is Duration.PERMANENT
    assert verdict("contig", user(kernel, mapping=FILE, mapcount=0, migrate_op=MigrateOp.NONE)) == "ok"


def test_dirty_file_that_can_be_written() -> None:
    """Until v6.16 the fallback wrote it out, and it moved at the next pass of who waits. Others pass it over."""
    facts = {"mapping": FILE, "mapcount": 0, "dirty": True, "migrate_op": MigrateOp.NONE, "has_writepage": True}
    assert verdict("contig", user(MIDDLE, **facts)) == "ok"
    assert verdict("compaction", user(MIDDLE, **facts)) == "no-migrate-op-dirty"
    assert duration("contig", user(NEW, **facts)) is Duration.PERMANENT


@by_release
@pytest.mark.parametrize(
    ("op", "facts", "reason"),
    [
        (MigrateOp.SECRETMEM, {}, "secretmem"),
        (MigrateOp.GUEST_MEMFD, {}, "inaccessible"),
        (MigrateOp.PLAIN, {"inaccessible": True}, "inaccessible"),
        (MigrateOp.BTREE, {"dirty": True}, "btree-dirty"),
        (MigrateOp.BTREE, {}, "ok"),
        (MigrateOp.NFS, {"private_flag": True, "refcount": 2}, "private-busy"),
        (MigrateOp.BUFFER_NOREFS, {"private_flag": True, "refcount": 2, "buffer_busy": True}, "buffer-busy"),
        (MigrateOp.BUFFER_NOREFS, {"private_flag": True, "refcount": 2}, "ok"),
        # aio_migrate_folio() expects the ring's own reference.
        (MigrateOp.AIO, {"refcount": 2}, "ok"),
        (MigrateOp.AIO, {"refcount": 3}, "extra-reference"),
    ],
)
def test_mapping_operations(kernel: Kernel, op: MigrateOp, facts: dict[str, Any], reason: str) -> None:
    f = user(kernel, **{"mapping": FILE, "mapcount": 0, "refcount": 1, "migrate_op": op, **facts})
    assert verdict("contig", f) == reason


@by_release
def test_hugetlb(kernel: Kernel) -> None:
    """5.10's alloc_contig_range() knows no hugetlb; later ones need somewhere to move it to."""
    facts: dict[str, Any] = {
        "order": 9,
        "type": PageType.HUGETLB,
        "mapping": ANON,
        "entire_mapcount": 1,
        "large_mapcount": 1,
        "refcount": 1,
        "lru": False,
        "hugetlb_migratable_flag": True,
        "hugetlb_supported": True,
    }
    here = {"hugetlb_room_on_node": True, "hugetlb_target_on_node": True}
    with_target = folio(kernel, hugetlb_target=True, hugetlb_available=True, **here, **facts)
    assert verdict("offline", with_target) == "ok"
    assert verdict("contig", with_target) == ("hugetlb-contig" if kernel is OLD else "ok")
    assert verdict("offline", folio(kernel, **facts)) == "hugetlb-no-target"
    elsewhere = folio(kernel, hugetlb_target=True, hugetlb_available=True, **facts)
    assert verdict("offline", elsewhere) == "ok"
    if kernel.contig_migrates_hugetlb:
        assert verdict("contig", elsewhere) == ("hugetlb-no-target" if kernel.contig_hugetlb_stays_on_node else "ok")
    free = folio(kernel, **{**facts, "refcount": 0, "mapping": 0, "entire_mapcount": 0, "large_mapcount": 0})
    assert verdict("offline", free) == "hugetlb-reserved"
    assert verdict("compaction", with_target) == "hugetlb-skipped"
    unsupported = folio(kernel, hugetlb_target=True, **{**facts, "hugetlb_supported": False})
    assert verdict("offline", unsupported) == "hugetlb-not-migratable"


@pytest.mark.parametrize("stays", [True, False])
@pytest.mark.parametrize("refcount", [0, 1])
def test_hugetlb_without_its_struct_pages(stays: bool, refcount: int) -> None:
    """Until v6.7, memory for them was wanted from its own node: it is moved away, and stays in the pool."""
    kernel = replace(MIDDLE, vmemmap_stays_on_node=stays)
    facts: dict[str, Any] = {
        "order": 9,
        "type": PageType.HUGETLB,
        "mapping": ANON if refcount else 0,
        "entire_mapcount": refcount,
        "large_mapcount": refcount,
        "refcount": refcount,
        "lru": False,
        "hugetlb_migratable_flag": True,
        "hugetlb_vmemmap_optimized": True,
    }
    pool = ("supported", "target", "available", "room_on_node", "target_on_node")
    facts.update((f"hugetlb_{word}", True) for word in pool)
    refused = "hugetlb-vmemmap" if stays else "ok"
    for path in ("offline", "contig"):
        assert verdict(path, folio(kernel, **facts)) == refused
        assert verdict(path, folio(kernel, kernel_memory_on_node=True, **facts)) == "ok"
        assert verdict(path, folio(kernel, **{**facts, "hugetlb_vmemmap_optimized": False})) == "ok"
    assert verdict("mbind-move-all", folio(kernel, **facts)) != "hugetlb-vmemmap"
    damaging = replace(MIDDLE, vmemmap_restore_damages=True)
    for path, lasts in (("offline", Duration.ENDLESS), ("contig", Duration.WILL_BLOCK)):
        lean = folio(damaging, kernel_memory_on_node=True, **facts)
        assert (verdict(path, lean), duration(path, lean)) == ("hugetlb-vmemmap-bug", lasts)
        assert verdict(path, folio(damaging, **{**facts, "hugetlb_vmemmap_optimized": False})) == "ok"
    if stays and refcount:  # held, it is never taken apart
        held = folio(kernel, **{**facts, "refcount": 2})
        assert verdict("offline", held) == verdict("contig", held) == "extra-reference"


@by_release
def test_huge_pages_out_of_migration(kernel: Kernel) -> None:
    """Where the mark is missing that says so, nobody tries to migrate one, whatever else is wrong with it."""
    huge: dict[str, Any] = {"order": 9, "type": PageType.HUGETLB, "mapping": ANON, "refcount": 5, "lru": False}
    huge.update(
        entire_mapcount=1, large_mapcount=1, hugetlb_supported=True, hugetlb_target=True, hugetlb_available=True
    )
    reason = "hugetlb-contig" if kernel is OLD else None
    for path in ("contig", "offline", "mbind"):
        expected = reason if path == "contig" and reason else None
        assert verdict(path, folio(kernel, **huge)) == (expected or "hugetlb-busy")
        assert verdict(path, folio(kernel, hwpoison=True, **huge)) == (expected or "hugetlb-hwpoison")
    assert duration("offline", folio(kernel, hwpoison=True, **huge)) is Duration.PERMANENT
    assert verdict("offline", folio(kernel, hugetlb_migratable_flag=True, **huge)) == "extra-reference"


@by_release
@pytest.mark.parametrize("zone", [1, 2])
def test_offlining_looks_for_room_on_other_nodes(kernel: Kernel, zone: int) -> None:
    """Below ZONE_MOVABLE, nothing may go where all is movable; the kernel finds out before it looks at the folio."""
    facts: dict[str, Any] = {"zone": zone, "others_all_movable": True}
    for f in (user(kernel, **facts), user(kernel, locked=True, **facts), user(kernel, refcount=9, **facts)):
        assert (verdict("offline", f), duration("offline", f)) == ("no-target", Duration.ENDLESS)
        assert verdict("contig", f) != "no-target"
    for elsewhere in ({"zone": kernel.zone_movable}, {"others_all_movable": False}):
        assert verdict("offline", user(kernel, **{**facts, **elsewhere})) == "ok"
    assert verdict("offline", thp(kernel, 1, 0, refcount=1, **facts)) == "ok"  # GFP_TRANSHUGE
    # These are never given to it, or come from a pool.
    assert verdict("offline", user(kernel, refcount=2, lru=False, **facts)) == "isolated"
    assert verdict("offline", user(kernel, hwpoison=True, **facts)) != "no-target"
    assert verdict("offline", kernels_own(kernel, type=PageType.BUDDY, refcount=0, others_all_movable=True)) == "ok"
    huge: dict[str, Any] = {"order": 9, "type": PageType.HUGETLB, "entire_mapcount": 1, "large_mapcount": 1}
    huge.update(hugetlb_supported=True, hugetlb_target=True, hugetlb_migratable_flag=True, hugetlb_available=True)
    assert verdict("offline", folio(kernel, mapping=ANON, refcount=1, **huge, **facts)) == "ok"


@by_release
def test_compaction_leaves_large_folios_alone(kernel: Kernel) -> None:
    """Until v6.9 all of them, since then those of a pageblock's size."""
    assert verdict("compaction", thp(kernel, 1, 0, refcount=1)) == "compound-order"
    small = folio(kernel, order=4, mapping=ANON, entire_mapcount=1, large_mapcount=1, refcount=1)
    assert verdict("compaction", small) == ("compound-order" if kernel is OLD else "ok")


@by_release
def test_shared_needs_move_all(kernel: Kernel) -> None:
    f = user(kernel, mapcount=2, refcount=2)
    assert verdict("mbind", f) == "mapped-shared"
    assert verdict("mbind-move-all", f) == "ok"


@by_release
def test_hwpoison(kernel: Kernel) -> None:
    """Offlining drops a poisoned page; since v6.12 it skips a large folio with one, for ever."""
    assert verdict("offline", user(kernel, hwpoison=True, lru=False, mapping=0, mapcount=0)) == "ok"
    large = thp(kernel, 1, 0, refcount=1, has_hwpoisoned=True)
    assert verdict("offline", large) == ("ok" if kernel is OLD else "hwpoison")


@by_release
def test_cma(kernel: Kernel) -> None:
    """Nobody offlines a CMA area; CMA itself takes all of it for movable."""
    f = kernels_own(kernel, pageblock_cma=True)
    assert verdict("offline", f) == "cma-pageblock"
    assert verdict("contig", user(kernel, zone=2, pageblock_cma=True)) == "ok"


@by_release
def test_secondary_reasons_are_kept(kernel: Kernel) -> None:
    """A pinned dirty ramfs page has two independent obstacles."""
    path = gates.find_path("contig").of(kernel)
    f = user(kernel, mapping=FILE, mapcount=0, dirty=True, migrate_op=MigrateOp.NONE, refcount=1025)
    mask = int(path.judge(f).mask[0])
    names = {gate.reason.name for i, gate in enumerate(path.gates) if mask >> i & 1}
    assert {"no-migrate-op-dirty", "dma-pinned"} <= names


def test_split_states() -> None:
    """What __folio_split() asks before it looks at references."""
    assert verdict("split", thp(NEW, 0, 0, refcount=0 + 512, swapcache_bit=True)) == "unmapped-anon"
    assert verdict("split", thp(NEW, 1, 0, refcount=1, writeback=True)) == "writeback"
    file = {"order": 4, "mapping": FILE, "migrate_op": MigrateOp.PLAIN}
    assert verdict("split", folio(NEW, refcount=16, min_order=2, **file)) == "min-order"
    assert verdict("split", folio(NEW, refcount=17, private_flag=True, dirty=True, **file)) == "private-busy"
    assert (
        verdict("split", folio(NEW, refcount=16, order=4, mapping=0, swapbacked=True, swapcache_bit=True))
        == "truncated"
    )


def test_broken_compound_page_is_refused_everywhere_it_matters() -> None:
    for path in ("contig", "offline", "compaction", "mbind", "split"):
        assert verdict(path, user(NEW, broken=True)) == "broken-compound"


def test_fewer_references_than_mappings() -> None:
    assert verdict("contig", user(NEW, mapcount=3, refcount=2)) == "missing-reference"


def test_names_that_do_not_exist() -> None:
    """Both come from the command line."""
    with pytest.raises(BadArgument, match="contig"):
        gates.find_path("config")
    with pytest.raises(BadArgument, match="extra-reference"):
        gates.find_reason("extra")


def test_every_gate_fits_the_mask() -> None:
    """Verdicts keep a bit per gate in 64."""
    for path in gates.paths().values():
        for kernel in KERNELS:
            assert len(path.of(kernel).gates) <= 64


def test_gates_judge_rows_independently() -> None:
    """A table of many folios gives each what it would get alone."""
    rows = [user(NEW), user(NEW, refcount=2), kernels_own(NEW, type=PageType.SLAB), user(NEW, refcount=1025)]
    names = {"refcount", "mapping", "lru", "type", "type_word", "zone", "swapbacked", "migrate_op", "order"}
    together = table(NEW, {name: [getattr(row, name)[0] for row in rows] for name in names})
    path = gates.find_path("contig").of(NEW)
    assert path.judge(together).primary.tolist() == [int(path.judge(row).primary[0]) for row in rows]
