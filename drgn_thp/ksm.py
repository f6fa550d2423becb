# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Whom KSM knows to map a page: what rmap_walk_ksm() can find, which is all that migration can unmap.

A page that was swapped out is mapped again wherever its swap entries are by then, with or without KSM's knowledge: it
learns of it when ksmd comes by the next time.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from drgn import FaultError, Object, Program
from drgn.helpers.linux.mm import follow_phys

from .layout import is_little_endian, member_offset

PAGE_MAPPING_FLAGS = 3
MAX_STEPS = 1 << 18
"""Nodes of lists and trees that are followed for all pages of a target together: some seconds."""


class TooMany(Exception):
    """More pages of KSM than are followed."""


class KsmMappings:
    """Follows the lists of KSM's stable nodes: ``struct ksm_stable_node``, ``struct ksm_rmap_item``."""

    def __init__(self, prog: Program, page_shift: int) -> None:
        """
        :raises UnknownLayout: if the types of KSM are not known
        """
        self.prog = prog
        self.steps = 0
        """Followed so far."""
        self._page_shift = page_shift
        self._word = struct.Struct("<Q" if is_little_endian(prog) else ">Q")
        # 21fbd59136e0 ("ksm: add the ksm prefix to the names of the ksm private structures") (in v6.1)
        node = ("struct ksm_stable_node", "struct stable_node")
        item = ("struct ksm_rmap_item", "struct rmap_item")
        self._node_first = member_offset(prog, node, "hlist.first")
        self._item_hlist = member_offset(prog, item, "hlist")
        self._item_next = member_offset(prog, item, "hlist.next")
        self._item_address = member_offset(prog, item, "address")
        self._item_anon_vma = member_offset(prog, item, "anon_vma")
        self._root = member_offset(prog, ("struct anon_vma",), "rb_root.rb_root.rb_node")
        self._left, self._right = (member_offset(prog, ("struct rb_node",), name) for name in ("rb_left", "rb_right"))
        self._chain_rb, self._chain_vma = (
            member_offset(prog, ("struct anon_vma_chain",), name) for name in ("rb", "vma")
        )
        self._vm_start, self._vm_end, self._vm_mm = (
            member_offset(prog, ("struct vm_area_struct",), name) for name in ("vm_start", "vm_end", "vm_mm")
        )

    def known(self, mapping: int, pfn: int, enough: int) -> int:
        """
        Return how many mappings of a page KSM can find.

        :param mapping: As in the page's ``struct page``
        :param enough: Stop at this number
        :raises FaultError: if a list or tree cannot be followed
        :raises TooMany: if no more is followed, for any page
        """
        found: set[tuple[int, int]] = set()
        if not enough:
            return 0
        for mm, address in self.places(mapping):
            if (mm, address) not in found and self._maps(mm, address, pfn):
                found.add((mm, address))
                if len(found) >= enough:
                    return len(found)
        return len(found)

    def places(self, mapping: int) -> Iterator[tuple[int, int]]:
        """
        Yield ``struct mm_struct *`` and address of every place where a page may be mapped.

        :raises FaultError: if a list or tree cannot be followed
        :raises TooMany: if no more is followed, for any page
        """
        for item in self._items(mapping & ~PAGE_MAPPING_FLAGS):
            address = self._read(item + self._item_address) >> self._page_shift << self._page_shift
            for vma in self._vmas(self._read(item + self._item_anon_vma)):
                if self._read(vma + self._vm_start) <= address < self._read(vma + self._vm_end):
                    yield self._read(vma + self._vm_mm), address

    def _read(self, address: int) -> int:
        if not 0 <= address < 1 << 64:  # drgn takes no such number
            raise FaultError("no address", address & (1 << 64) - 1)
        word: int = self._word.unpack(self.prog.read(address, 8))[0]
        return word

    def _step(self) -> None:
        self.steps += 1
        if self.steps > MAX_STEPS:
            raise TooMany

    def _items(self, node: int) -> Iterator[int]:
        entry = self._read(node + self._node_first)
        while entry:
            self._step()
            item = entry - self._item_hlist
            yield item
            entry = self._read(item + self._item_next)

    def _vmas(self, anon_vma: int) -> Iterator[int]:
        """Yield all ``struct vm_area_struct *`` of an anon_vma, in no order."""
        waiting = [self._read(anon_vma + self._root)]
        while waiting:
            node = waiting.pop()
            if node:
                self._step()
                yield self._read(node - self._chain_rb + self._chain_vma)
                waiting += (self._read(node + self._left), self._read(node + self._right))

    def _maps(self, mm: int, address: int, pfn: int) -> bool:
        try:
            there = follow_phys(Object(self.prog, "struct mm_struct *", mm), address)
        except FaultError as error:
            if "address is not mapped" in str(error):
                return False
            raise
        return int(there) >> self._page_shift == pfn
