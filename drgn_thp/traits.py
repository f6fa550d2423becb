# SPDX-License-Identifier: LGPL-2.1-or-later
"""Fill in the traits of ``kernel.py`` for one target, each by a witness in the target: a type, a symbol, a variable."""

from __future__ import annotations

from drgn import Architecture, FaultError, Program, TypeKind

from .errors import UnknownLayout
from .kernel import Kernel
from .layout import Layout, find_enumerator, find_type, has_symbol
from .racy import read_racy_check


def _max_page_order(prog: Program) -> int:
    zone = find_type(prog, "struct zone")
    if zone is None or not zone.has_member("free_area"):
        raise UnknownLayout("struct zone::free_area not found")
    length = zone.member("free_area").type.length
    if not length:
        raise UnknownLayout("struct zone::free_area has no length")
    return int(length) - 1


def _pageblock_order(prog: Program, page_shift: int, max_page_order: int) -> int:
    """Return pageblock_order, a macro: the order of the PMD-sized huge page where there is hugetlb."""
    try:
        return int(prog["pageblock_order"].value_())  # CONFIG_HUGETLB_PAGE_SIZE_VARIABLE
    except LookupError:
        pass
    if find_type(prog, "struct hstate") is None:
        return max_page_order
    arch = prog.platform.arch if prog.platform else None
    if arch == Architecture.S390X:
        order = 20 - page_shift
    elif arch == Architecture.PPC64:
        order = 21 - page_shift
    else:
        order = page_shift - 3  # a page table of 8-byte entries
    return min(order, max_page_order)


def _compaction_takes_large_folios(prog: Program) -> bool:
    control = find_type(prog, "struct compact_control")
    return (
        control is not None
        and control.has_member("freepages")
        and control.member("freepages").type.kind == TypeKind.ARRAY
    )


def _tells_allocation_why(prog: Program) -> bool:
    """Return whether who allocates a target is told why: on that depends whether it may be on another node."""
    control = find_type(prog, "struct migration_target_control")
    return control is not None and control.has_member("reason")


def _variable(prog: Program, name: str, default: int) -> int:
    try:
        return int(prog[name].value_())
    except (LookupError, FaultError):
        return default


def read_kernel(prog: Program, layout: Layout, racy_check: str | None = None) -> Kernel:
    """
    Decide every trait of the target's kernel.

    :param racy_check: ``"old"`` or ``"new"`` to force that one
    :raises UnknownLayout: if a type that decides one is not understood
    """
    release = prog["UTS_RELEASE"].string_().decode("ascii", "backslashreplace")
    page_shift = int(prog["PAGE_SHIFT"].value_())
    max_page_order = _max_page_order(prog)
    zone_movable = find_enumerator(prog, "ZONE_MOVABLE")
    if zone_movable is None:
        raise UnknownLayout("ZONE_MOVABLE not found")
    large_mapcount = "large_mapcount" in layout.fields
    pincount = layout.fields.get("pincount")
    operations = find_type(prog, "struct address_space_operations")
    remap = find_type(prog, "struct vmemmap_remap_walk")
    return Kernel(
        release=release,
        page_shift=page_shift,
        zone_movable=zone_movable,
        pageblock_order=_pageblock_order(prog, page_shift, max_page_order),
        max_page_order=max_page_order,
        racy_check=read_racy_check(prog, layout, release, racy_check),
        large_mapcount=large_mapcount,
        pmd_maps_counted_in_subpages=not large_mapcount and "nr_pages_mapped" not in layout.fields,
        pincount_from_order=2 if pincount is not None and pincount.page == 2 else 1,
        private_2_holds_reference=find_type(prog, "struct folio") is None,
        # Its only user went with the change.
        hugetlb_cache_holds_one=has_symbol(prog, "linear_hugepage_index"),
        mm_ids="mm_ids" in layout.fields,
        likely_mapped_shared=large_mapcount and "mm_ids" not in layout.fields,
        compaction_takes_large_folios=_compaction_takes_large_folios(prog),
        compact_unevictable_allowed=bool(_variable(prog, "sysctl_compact_unevictable_allowed", 1)),
        contig_migrates_hugetlb=has_symbol(prog, "isolate_or_dissolve_huge_page")
        or has_symbol(prog, "isolate_or_dissolve_huge_folio"),
        contig_hugetlb_stays_on_node=_tells_allocation_why(prog),
        contig_replaces_free_hugetlb=has_symbol(prog, "replace_free_hugepage_folios"),
        # No type or symbol came with it; this one, for what had another name, is of the same release: c5ad3233ead5
        # ("hugetlb_vmemmap: use folio argument for hugetlb_vmemmap_* functions") (in v6.7).
        vmemmap_stays_on_node=not has_symbol(prog, "hugetlb_vmemmap_restore_folio"),
        # It came together with this member; kernels for which it is right have masks in tails.
        vmemmap_restore_damages=not layout.tails_hold_masks and remap is not None and remap.has_member("vmemmap_tail"),
        # Its functions are inlined or renamed by compilers; this operation is of the same release.
        isolates_pageblocks=operations is not None and operations.has_member("read_folio"),
        # Its only user.
        isolation_migrates_straddlers=has_symbol(prog, "split_free_page"),
        lru_cache_disable=has_symbol(prog, "lru_disable_count") or has_symbol(prog, "lru_cache_disable"),
        movable_ops_by_type=bool(layout.flag("movable_ops_flag")),
        fallback_writes_out=operations is not None and operations.has_member("writepage"),
        # No type or symbol came with it; enum pagetype's top bytes are of the same release.
        offline_skips_poisoned_large=layout.types.top_byte,
    )
