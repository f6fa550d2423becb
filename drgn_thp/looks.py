# SPDX-License-Identifier: LGPL-2.1-or-later
"""What folios look like: everything in struct pages that a verdict can depend on; equals are judged once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy

from .folios import Column
from .formulas import FOLIO_MM_IDS_SHARED
from .layout import Layout
from .rows import Rows

# Facts of the struct pages behind the first, with the bits that count; all of them if None.
_LARGE_FACTS = {
    "large_flags": None,
    "order": None,
    "entire_mapcount": None,
    "large_mapcount": None,
    "pincount": None,
    "mm_ids": FOLIO_MM_IDS_SHARED,
    "compound_dtor": None,
}


@dataclass(frozen=True)
class Looks:
    """The looks of some folios, as far as their first struct page shows them."""

    state: Column
    """The flags that matter, with the kind of mapping in spare bits."""
    counts: Column
    """Map count or page type, and reference count."""
    apart: Column
    """Folios that are like no other, whatever they look like: something outside of their struct pages counts."""

    @staticmethod
    def none() -> Looks:
        return Looks(numpy.zeros(0, numpy.uint64), numpy.zeros(0, numpy.uint64), numpy.zeros(0, dtype=bool))

    @staticmethod
    def concatenate(parts: list[Looks]) -> Looks:
        return Looks(
            numpy.concatenate([part.state for part in parts]),
            numpy.concatenate([part.counts for part in parts]),
            numpy.concatenate([part.apart for part in parts]),
        )


class Glance:
    """Compares folios by the words of their struct pages in which facts lie."""

    def __init__(self, layout: Layout) -> None:
        size = layout.page_struct_size
        masks = [bytearray(size) for _ in range(layout.struct_pages)]
        for name, bits in _LARGE_FACTS.items():
            field = layout.fields.get(name)
            if field is not None:
                width = field.dtype.itemsize
                wanted = (1 << 8 * width) - 1 if bits is None else bits
                wanted &= (1 << 8 * width) - 1 if field.mask is None else field.mask
                if name == "large_flags":
                    wanted = sum(bit for flag, bit in layout.flag_masks.items() if layout.flag_pages[flag])
                self._add(masks[field.page], field.offset, wanted, width, field.dtype.byteorder)
        # On kernels before v5.13 hugetlb's "active" mark is PG_private of the first tail page; since, a bit of private.
        bit = layout.enumerators.get("HPG_migratable")
        optimized = layout.enumerators.get("HPG_vmemmap_optimized")
        flags, private = layout.fields["flags"], layout.fields["private"]
        if bit is None:
            self._add(masks[1], flags.offset, layout.flag("private_flag"), 8, flags.dtype.byteorder)
        bits = sum(1 << number for number in (bit, optimized) if number is not None)
        self._private = (private.offset // 8, numpy.uint64(bits)) if bits else None
        self._words = [
            (page, index, numpy.uint64(word))
            for page, mask in enumerate(masks)
            for index, word in enumerate(numpy.frombuffer(bytes(mask), numpy.uint64).tolist())
            if word
        ]

    @staticmethod
    def _add(mask: bytearray, offset: int, bits: int, width: int, byteorder: str) -> None:
        for i, byte in enumerate(bits.to_bytes(width, "big" if byteorder == ">" else "little")):
            mask[offset + i] |= byte

    def _columns(self, rows: Rows, looks: Looks) -> list[Column]:
        columns = [
            looks.state,
            looks.counts,
            numpy.where(looks.apart | rows.broken | rows.changing, rows.pfn + 1, 0).view(numpy.uint64),
            rows.subpage_mapcounts.view(numpy.uint64),
        ]
        words = [page.view(numpy.uint64) for page in rows.pages]
        columns += [words[page][:, index] & mask for page, index, mask in self._words]
        if self._private is not None:
            columns.append(numpy.where(rows.order > 0, words[0][:, self._private[0]] & self._private[1], 0))
        return columns

    def distinct(self, rows: Rows, looks: Looks) -> tuple[Column, Column]:
        """
        Return the rows that differ from each other, and for every row which of these it is like.

        Rows are sorted by a mixture of their words; whether two are equal is then decided by the words themselves.
        """
        if not len(rows):
            return numpy.zeros(0, numpy.intp), numpy.zeros(0, numpy.intp)
        columns = self._columns(rows, looks)
        mixture = numpy.zeros(len(rows), numpy.uint64)
        for column in columns:
            mixture ^= column
            mixture *= numpy.uint64(0x9E3779B97F4A7C15)
            mixture ^= mixture >> numpy.uint64(29)
        order = numpy.argsort(mixture)
        ordered = mixture[order]
        first = numpy.ones(len(rows), dtype=bool)
        first[1:] = ordered[1:] != ordered[:-1]
        chosen = order[first]
        which = numpy.empty(len(rows), numpy.intp)
        which[order] = numpy.cumsum(first) - 1
        equal = numpy.ones(len(rows), dtype=bool)
        like = chosen[which]
        for column in columns:
            equal &= column == column[like]
        strangers = (~equal).nonzero()[0]
        if len(strangers):  # equal mixtures of different words: each for itself
            which[strangers] = len(chosen) + numpy.arange(len(strangers))
            chosen = numpy.concatenate((chosen, strangers))
        return chosen, which
