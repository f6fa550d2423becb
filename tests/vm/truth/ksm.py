# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whom KSM knows to map a page: what rmap_walk_ksm() can find, which is all that migration can unmap."""

from __future__ import annotations

from drgn import FaultError, Object, Program, cast
from drgn.helpers.linux.list import hlist_for_each_entry
from drgn.helpers.linux.mm import follow_phys
from drgn.helpers.linux.rbtree import rbtree_inorder_for_each_entry

from drgn_thp.layout import find_type

MAPPING_FLAGS = 3


def _named(prog: Program, *names: str) -> str:
    """Return the name that a type has: 21fbd59136e0 ("ksm: add the ksm prefix ...") (in v6.1) renamed some."""
    return next(name for name in names if find_type(prog, name) is not None)


def known_mappings(prog: Program, mapping: int, pfn: int) -> set[tuple[int, int]]:
    """
    Return where KSM finds a page that it shares: mm and address, as far as the page is really mapped there.

    A page that was swapped out is mapped again wherever its swap entries are by then, with or without KSM's knowledge.

    :param mapping: As in the page's struct page
    :raises FaultError: if it cannot be followed
    """
    if not mapping & ~MAPPING_FLAGS:
        return set()
    node = _cast_to(prog, _named(prog, "struct ksm_stable_node", "struct stable_node"), mapping & ~MAPPING_FLAGS)
    item_type = _named(prog, "struct ksm_rmap_item", "struct rmap_item")
    page_shift = int(prog["PAGE_SHIFT"])
    found = set()
    for item in hlist_for_each_entry(item_type, node.hlist.address_of_(), "hlist"):
        address = int(item.address) >> page_shift << page_shift
        root = item.anon_vma.rb_root.rb_root
        for chain in rbtree_inorder_for_each_entry("struct anon_vma_chain", root.address_of_(), "rb"):
            vma = chain.vma
            if int(vma.vm_start) <= address < int(vma.vm_end) and _maps(vma.vm_mm, address, pfn, page_shift):
                found.add((int(vma.vm_mm), address))
    return found


def _cast_to(prog: Program, name: str, address: int) -> Object:
    return cast(f"{name} *", Object(prog, "unsigned long", address))


def _maps(mm: Object, address: int, pfn: int, page_shift: int) -> bool:
    try:
        return int(follow_phys(mm, address)) >> page_shift == pfn
    except FaultError:
        return False
