# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Isolated folios: taken off the LRU by reclaim, compaction, migration or offlining, and on a list of a task's own.

Such a list begins on the stack of who isolated them, and each folio on it leads back there: so what is linked both ways
with a word of the live part of a stack is on a list now. The one that reclaim is busy with is on no list, but in a
variable.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy
from drgn import FaultError

from ..facts import LRU_LIST
from ..layout import find_offset
from .frames import Live, LiveStacks, variable
from .ground import Ground
from .model import Claim, Damaged, Owner, Walker

MAX_ISOLATED = 1 << 20
# Who has a folio off its list while it is busy with it, and the variable for it.
_RECLAIM = {"shrink_folio_list": "folio", "shrink_page_list": "page"}
# What for, by a function that the task is in; the first that fits.
_FOR = {
    "offline_pages": "offlining",
    "alloc_contig_range": "a contiguous allocation",
    "alloc_contig_range_noprof": "a contiguous allocation",
    "alloc_contig_frozen_range_noprof": "a contiguous allocation",
    "compact_zone": "compaction",
    "do_pages_move": "move_pages",
    "__do_sys_move_pages": "move_pages",
    "kernel_move_pages": "move_pages",
    "do_mbind": "mbind",
    "migrate_pages": "migration",
    "shrink_folio_list": "reclaim",
    "shrink_page_list": "reclaim",
    "shrink_lruvec": "reclaim",
}


def walk(ground: Ground) -> Iterator[Claim]:
    """Yield what each task has isolated."""
    stacks = LiveStacks.of(ground)
    purposes: dict[int, str] = {}
    for function, purpose in _FOR.items():
        for live in stacks.within([function]):
            purposes.setdefault(live.task.address, purpose)
    for task, pages in isolated(ground).items():
        what = purposes.get(task)
        owner = Owner(f"isolated for {what}" if what else "isolated", task=task)
        yield Claim(owner, ground.pfns(pages), gets=1, exact=False)


def isolated(ground: Ground) -> dict[int, list[int]]:
    """Return for each task that has isolated any the addresses of ``struct page``; looked for once."""
    found = ground.shared.get("isolated")
    if found is None:
        found = ground.shared["isolated"] = _find(ground)
    assert isinstance(found, dict)
    return found


def _find(ground: Ground) -> dict[int, list[int]]:
    stacks, lists = LiveStacks.of(ground), _Lists(ground)
    found: dict[int, list[int]] = {}
    for live in stacks.all():
        for head in lists.heads(live):
            with ground.part(f"list {head:#x}"):
                pages = lists.pages(head)
                if pages:
                    found.setdefault(live.task.address, []).extend(pages)
    for live in stacks.within(_RECLAIM):
        if live.sleeps:
            with ground.part(f"stack of {live.task.pid}"):
                for frame in stacks.trace(live.task):
                    if frame.name in _RECLAIM:
                        busy_with = variable(frame, (_RECLAIM[frame.name],))
                        page = 0 if busy_with is None else int(busy_with.value_())
                        if page and not lists.is_linked(page):
                            found.setdefault(live.task.address, []).append(page)
    return found


class _Lists:
    """Lists of pages, by their links."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        at = find_offset(ground.prog, LRU_LIST)
        if at is None:
            raise LookupError("nothing says how pages are linked")
        layout = ground.context.layout
        self._at, self._size, self._low = at, layout.page_struct_size, layout.vmemmap
        self._high = layout.vmemmap + ground.context.end_pfn * layout.page_struct_size

    def heads(self, live: Live) -> list[int]:
        """Return addresses on a stack that may be the head of a list: what is there could be the link of a page."""
        size = numpy.uint64(self._size)
        offset = live.words - numpy.uint64(self._low)
        inside = (live.words >= numpy.uint64(self._low)) & (live.words < numpy.uint64(self._high))
        fits = inside & (offset % size == numpy.uint64(self._at))
        # The last word has no room for the other half of a head.
        return [live.address + 8 * i for i in numpy.flatnonzero(fits[:-1]).tolist()]

    def pages(self, head: int) -> list[int]:
        """
        Return the pages that are linked with a head; none if it is no head.

        :raises Damaged: if the list begins well, and does not end so
        """
        found: list[int] = []
        seen: set[int] = set()
        before, node = head, self.ground.word(head)
        while node != head:
            if not self._is_link(node) or node in seen or len(found) >= MAX_ISOLATED:
                if not found:
                    return []
                raise Damaged(f"a list of isolated folios does not end ({len(found)} of them)")
            if self.ground.word(node + 8) != before:
                if not found:  # a link that was left there, or the second half of one
                    return []
                raise Damaged("a list of isolated folios does not lead back")
            seen.add(node)
            found.append(node - self._at)
            before, node = node, self.ground.word(node)
        return found if self.ground.word(head + 8) == before else []

    def is_linked(self, page: int) -> bool:
        """Return whether a page is on any list: what follows it leads back to it."""
        link = page + self._at
        try:
            following = self.ground.word(link)
            return self.ground.word((following + 8) & ((1 << 64) - 1)) == link
        except FaultError:  # what is put into the links of what was taken off a list
            return False

    def _is_link(self, node: int) -> bool:
        return self._low <= node < self._high and (node - self._low) % self._size == self._at


WALKERS = (
    Walker(
        kind="isolated",
        summary="a page that a task took off the LRU: reclaim, compaction, migration, offlining",
        frees="wait until the task is done with it; if it waits for a disk, mend or remove that",
        walk=walk,
        types=("struct task_struct",),
        transient=True,
    ),
)
