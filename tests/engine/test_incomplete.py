# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is not in the dump is counted as unknown. It must not be taken for something else, nor change what is there."""

from __future__ import annotations

import random

import numpy
import pytest

from drgn_thp import formulas
from drgn_thp.census import BlockCensus
from drgn_thp.context import Context
from drgn_thp.folios import Folios
from drgn_thp.gates import find_path
from drgn_thp.scan import Scan

from .individually import blocks_of
from .opened import Opened
from .overlay import PAGE_SIZE, Overlay

pytestmark = pytest.mark.vm


def census(overlay: Overlay, pfn: int) -> BlockCensus:
    """Scan the memory block of a page."""
    overlay.prog.cache.clear()
    context = Context.of(overlay.prog)
    blocks = [block for block in blocks_of(context) if block.start_pfn <= pfn < block.end_pfn]
    (result,) = Scan(context, [find_path("contig")]).blocks(blocks)
    return result


def refused(block: BlockCensus) -> dict[int, tuple[int, int]]:
    """Return references and mappings of the refused folios, by head."""
    f: Folios | None = block.refused
    if f is None:
        return {}
    return dict(zip(f.pfn.tolist(), zip(f.refcount.tolist(), formulas.folio_mapcount(f).tolist())))


def test_large_folios_that_are_cut_off(opened: Opened, overlay: Overlay) -> None:
    """
    Kernels before v6.10 keep the mappings of a large folio in all of its struct pages.

    Where some are missing, the sum is too small, and every reference that it lacks would look like somebody's.
    """
    rng = random.Random(5)
    f = opened.folios
    per_page = PAGE_SIZE // overlay.page_size
    large = numpy.flatnonzero((f.order > 6) & formulas.is_user(f)).tolist()
    overlay.mend()
    blocks = {int(f.pfn[i]) & ~0x7FFF for i in large}
    whole = {block: refused(census(overlay, block)) for block in blocks}
    for i in large:
        head, pages = int(f.pfn[i]), 1 << int(f.order[i])
        missing = head + rng.randrange(1, pages // per_page) * per_page
        overlay.mend()
        overlay.make_unreadable(overlay.physical(overlay.page_address(missing)) // PAGE_SIZE)
        found = census(overlay, head)
        assert found.unreadable >= per_page, hex(head)
        before = whole[head & ~0x7FFF]
        assert refused(found).items() <= before.items(), (hex(head), hex(missing))
        assert before.keys() - refused(found).keys() <= {head}, (hex(head), hex(missing))


def test_small_folios_beside_what_is_missing(opened: Opened, overlay: Overlay) -> None:
    """A page of struct pages is missing: exactly those are unknown, and all others are counted as before."""
    rng = random.Random(6)
    per_page = PAGE_SIZE // overlay.page_size
    small = [
        mark.pfn for mark in opened.dump.marks if mark.kind in ("anon", "ksm", "file") and mark.scenario != "fresh"
    ]
    for pfn in rng.sample(small, 5):
        overlay.mend()
        before = census(overlay, pfn)
        overlay.make_unreadable(overlay.physical(overlay.page_address(pfn)) // PAGE_SIZE)
        found = census(overlay, pfn)
        first = pfn // per_page * per_page
        lost = {head for head in refused(before) if first <= head < first + per_page}
        assert found.unreadable == per_page
        assert refused(found) == {head: counts for head, counts in refused(before).items() if head not in lost}
        used = [opened.position[lost_pfn] for lost_pfn in range(first, first + per_page) if lost_pfn in opened.position]
        gone = numpy.count_nonzero(~formulas.is_free(opened.folios)[used])
        assert found.folios == before.folios - gone
