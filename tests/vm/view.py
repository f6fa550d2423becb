# SPDX-License-Identifier: LGPL-2.1-or-later
"""
One folio of a dump, read member by member through drgn.

Slow and plain on purpose: it checks that the workload reached the states it claims, and shares nothing with the package
under test.
"""

from __future__ import annotations

from dataclasses import dataclass

from drgn import Object, Program, TypeKind, cast
from drgn.helpers.linux.mm import PageHead, compound_head, compound_order, pfn_to_page

MAPPING_ANON = 1
MAPPING_KSM = 3


@dataclass(frozen=True)
class Folio:
    """
    What a dump says of one folio.

    :ivar mapcount: Mappings of any part of it; one by a PMD counts once.
    :ivar entire_mapcount: Mappings by a PMD.
    :ivar mapping: Address of whatever the cached folio belongs to, with the bits that say what that is.
    """

    head: int
    order: int
    refcount: int
    mapcount: int
    entire_mapcount: int
    mapping: int
    flags: frozenset[str]

    @property
    def nr_pages(self) -> int:
        """Size of the folio."""
        return 1 << self.order

    @property
    def anon(self) -> bool:
        """Whether this is anonymous memory."""
        return bool(self.mapping & MAPPING_ANON)

    @property
    def ksm(self) -> bool:
        """Whether this is a page that KSM merged."""
        return self.mapping & MAPPING_KSM == MAPPING_KSM

    @property
    def swapcache(self) -> bool:
        """Whether the folio has slots in the swap area. The flag means other things for files."""
        return self.anon and "PG_swapcache" in self.flags

    @property
    def expected(self) -> int:
        """How many references mm itself explains."""
        cached = bool(self.mapping) and not self.anon
        return self.mapcount + (cached or self.swapcache) * self.nr_pages + (cached and "PG_private" in self.flags)

    @property
    def surplus(self) -> int:
        """How many references mm does not explain."""
        return self.refcount - self.expected


def folio(prog: Program, pfn: int) -> Folio:
    """Return the folio that a page frame belongs to."""
    page = pfn_to_page(prog, pfn)
    head = compound_head(page)
    order = int(compound_order(head)) if PageHead(head) else 0
    mapping = int(cast("unsigned long", head.mapping))
    entire, total = _large_mapcounts(prog, head, order, mapping) if order else (0, _count(head._mapcount))
    names = prog.type("enum pageflags").enumerators or ()
    flags = frozenset(e.name for e in names if _flags(head) >> e.value & 1)
    first = pfn - (page.value_() - head.value_()) // prog.type("struct page").size
    return Folio(first, order, int(head._refcount.counter), total, entire, mapping, flags)


def _count(counter: Object) -> int:
    # Map counts start at -1.
    return int(counter.counter) + 1


def _flags(page: Object) -> int:
    # Wrapped in a structure since 6.18.
    wrapped = page.flags.type_.kind == TypeKind.TYPEDEF
    return int(page.flags.f if wrapped else page.flags)


def _large_mapcounts(prog: Program, head: Object, order: int, mapping: int) -> tuple[int, int]:
    """Return by how many PMDs, and how often in all, a large folio is mapped."""
    if prog.type("struct page").has_member("compound_mapcount"):
        return _large_mapcounts_until_6_1(prog, head, order, mapping)
    large = cast("struct folio *", head)
    return _count(large._entire_mapcount), _count(large._large_mapcount)


def _large_mapcounts_until_6_1(prog: Program, head: Object, order: int, mapping: int) -> tuple[int, int]:
    entire = _count(head[1].compound_mapcount)
    if int(head[1].compound_dtor) == prog.constant("HUGETLB_PAGE_DTOR").value_():
        return entire, entire
    pages = 1 << order
    each = sum(_count(head[i]._mapcount) for i in range(pages))
    if mapping & MAPPING_ANON:
        # The count of each page is one too high when PMDs and PTEs both map it.
        double = _flags(head[1]) >> prog.constant("PG_double_map").value_() & 1
        return entire, entire + each - double * pages
    # The count of each page of a file's folio includes the mappings by PMDs.
    return entire, entire + each - entire * pages
