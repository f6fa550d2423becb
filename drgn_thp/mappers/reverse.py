# SPDX-License-Identifier: LGPL-2.1-or-later
"""When to go by the reverse mapping, and what came of it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field

from drgn import FaultError

from ..context import Context
from ..errors import UnknownLayout
from ..folios import Folios
from ..rows import concatenate
from ..structs import Struct
from ..suspects import Suspects
from .decoder import Decoder
from .lookup import Decoding, Lookup, Translating
from .tables import Hits
from .trees import Reverse
from .vmas import Vmas

FEW = 64
"""Folios that the reverse mapping is asked for ..."""
MANY_TABLES = 1 << 17
"""... where there are more page tables than this: a second or more."""


@dataclass
class Back:
    """
    What the reverse mapping says.

    :ivar folios: The suspects, as far as they could be read; None if none could
    :ivar failures: What could not be followed, in words
    """

    hits: Hits
    folios: Folios | None = None
    failures: list[str] = field(default_factory=list)


def are_few(context: Context, suspects: Suspects, mms: list[int]) -> bool:
    """Return whether page tables are so many, and folios so few, that the reverse mapping is quicker."""
    if len(suspects) > FEW:
        return False
    # One counter of bytes for tables of all levels since af5b0f6a09e4 ("mm: consolidate page table accounting")
    # (in v4.15).
    mm = Struct(context.prog, "struct mm_struct", ("pgd",), ("pgtables_bytes",))
    total = 0
    for address in mms:
        with suppress(FaultError):
            total += mm.read(address)["pgtables_bytes"]
    return total >> context.kernel.page_shift > MANY_TABLES


def find_reverse(context: Context, decoder: Decoder | None, suspects: Suspects, mms: list[int], vmas: Vmas) -> Back:
    """Find mappings of some folios by the reverse mapping."""
    found = Back(Hits.join([]))
    lookup: Lookup = Translating(context.prog, context.kernel.page_shift)
    if decoder is not None:
        top = lambda mm: context.virtual_to_pfn(vmas.mm(mm)["pgd"])  # noqa: E731
        lookup = Decoding(context.prog, decoder, top, context.sections.are_memory)
    else:
        found.failures.append(
            "mappers: no decoder for the page tables of this architecture: only pages that are present are seen to be"
            " mapped"
        )
    try:
        reverse = Reverse(context, lookup, {mm: i for i, mm in enumerate(mms)})
    except UnknownLayout as error:
        found.failures.append(f"mappers: {error}")
        return found
    rows, unreadable = [], 0
    for pfn in suspects.start.tolist():
        try:
            rows.append(context.memmap.read_folio(pfn))
        except FaultError:
            unreadable += 1
    if rows:
        found.folios = context.folios(concatenate(rows))
        found.hits = reverse.find(suspects, found.folios)
    for number, what in (
        (unreadable, "folios have struct pages that could not be read"),
        (reverse.unreadable, "folios have reverse mappings that could not be followed"),
        (reverse.unknown, "mappings are of address spaces of no process"),
        (reverse.left, "folios were not looked for: there is too much to follow"),
    ):
        if number:
            found.failures.append(f"mappers: {number} {what}")
    return found
