# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What devices may reach: the page tables of an IOMMU's domain, and, where they are not understood, those of a process.

Both are walked by the walk of :mod:`..mappers`: it takes tables of any format that has a decoder.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy

from ..folios import Column
from ..mappers.decoder import Decoded, Decoder, State
from ..mappers.tables import Walk
from ..suspects import Suspects
from .ground import Ground
from .model import Damaged

DOMAIN, DMAR, COMMON = "struct iommu_domain", "struct dmar_domain", "struct pt_common"
PIECE = 1 << 30
"""Bytes of addresses that are looked at in one go: memory stays flat, and a walker's time is looked at in between."""
_LEVEL = 7  # PT_TOP_LEVEL_MASK
_BITS = 9  # of an address, for each level
_PAGE = 12


class Vtd:
    """
    Page tables of VT-d: of the second stage, and of the first one, which are those of x86-64.

    Either way the lowest two bits are those of an entry that is there, and bit 7 is that of a large page.

    :param levels: Of tables
    """

    page_size = 4096
    user_entries = 512

    def __init__(self, levels: int) -> None:
        self.shifts = tuple(_PAGE + _BITS * level for level in reversed(range(levels)))

    def decode(self, entries: Column, shift: int) -> Decoded:
        """Return what entries that are not zero say."""
        present = (entries & numpy.uint64(3)) != 0
        is_large = (entries & numpy.uint64(1 << 7)) != 0
        is_leaf = present & (is_large | (shift == _PAGE))
        pfn = ((entries & numpy.uint64((1 << 52) - 1)) >> numpy.uint64(_PAGE)).astype(numpy.int64)
        pfn = numpy.where(is_leaf, pfn & -(1 << shift - _PAGE), pfn)
        return Decoded(present & ~is_leaf, is_leaf, pfn, numpy.full(len(entries), State.MAPPED, numpy.uint8))


@dataclass(frozen=True)
class Tables:
    """
    Some page tables.

    :ivar top: Page frame of the top table
    """

    decoder: Decoder
    top: int


class _Everything(Suspects):
    """All of memory as one folio: each entry is for it."""

    def __init__(self) -> None:
        super().__init__(numpy.zeros(0, numpy.int64), numpy.zeros(0, numpy.int64))

    def find(self, pfn: Column, pages: int = 1) -> Column:
        """Return 0 for each."""
        return numpy.zeros(len(pfn), numpy.int64)


def domain_tables(ground: Ground, domain: int) -> Tables | None:
    """
    Return the page tables of a ``struct iommu_domain *``; None if they are of a format that is not understood.

    :raises FaultError: if the domain cannot be read
    """
    operations = ground.pointer(DOMAIN, domain, "ops")
    translate = 0
    for type_ in ("struct iommu_domain_ops", "struct iommu_ops"):  # v6.1 has operations of domains apart
        if ground.has(type_, "iova_to_phys"):
            translate = ground.pointer(type_, operations, "iova_to_phys")
            break
    # In v7.3 drivers share the code for tables, and each format has a function of its own.
    for name, member in (("vtdss", "vtdss_pt"), ("x86_64", "x86_64_pt")):
        table = f"struct pt_iommu_{name}"
        if translate and translate == ground.symbol(f"pt_iommu_{name}_iova_to_phys") and ground.has(table, member):
            word = ground.pointer(table, domain, f"{member}.common.top_of_table")
            return _tables(ground, word & ~_LEVEL, (word & _LEVEL) + 1)
    if translate and translate == ground.symbol("intel_iommu_iova_to_phys") and ground.has(DMAR, "agaw"):
        own = domain - ground.offset(DMAR, "domain")
        return _tables(ground, ground.pointer(DMAR, own, "pgd"), ground.uint(DMAR, own, "agaw") + 2)
    return None


def _tables(ground: Ground, top: int, levels: int) -> Tables:
    if not 2 <= levels <= 5:
        raise Damaged(f"{levels} levels of page tables")
    return Tables(Vtd(levels), ground.context.virtual_to_pfn(top))


def pages_of(ground: Ground, tables: Tables, start: int, end: int) -> Iterator[tuple[Column, Column]]:
    """
    Yield addresses of pages, and their page frames, that are between two addresses; in pieces, and in no order.

    :raises Damaged: if tables cannot be read, when all that can be was yielded
    """
    missing, everything = 0, _Everything()
    for low in range(start, end, PIECE):
        ground.step()
        high = min(low + PIECE, end)
        walk = Walk(ground.prog, tables.decoder, everything, ground.context.sections.are_memory, low=low, high=high)
        hits = walk.walk(numpy.array([tables.top], numpy.int64))
        missing += walk.unreadable + walk.wild + walk.left
        mapped = hits.state <= State.PROT_NONE
        for shift in numpy.unique(hits.shift[mapped]).tolist():
            rows = mapped & (hits.shift == shift)
            yield _spread(hits.pfn[rows], hits.address[rows].astype(numpy.int64), 1 << shift, low, high)
    if missing:
        raise Damaged(f"{missing} page tables cannot be read")


def _spread(pfn: Column, address: Column, size: int, low: int, high: int) -> tuple[Column, Column]:
    """Return the single pages of entries of one size, those between two addresses."""
    within = numpy.arange(size >> _PAGE)
    pages = (pfn[:, None] + within).ravel()
    addresses = (address[:, None] + (within << _PAGE)).ravel()
    inside = (addresses >= low) & (addresses < high)
    return addresses[inside], pages[inside]
