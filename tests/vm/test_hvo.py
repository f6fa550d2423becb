# SPDX-License-Identifier: LGPL-2.1-or-later
"""Huge pages that have given most of their struct pages back, as ``python -m tests.vm.truth`` does not look at them."""

from __future__ import annotations

from dataclasses import replace

import numpy
import pytest

from drgn_thp import formulas
from drgn_thp.context import Context
from drgn_thp.target import TargetSpec, open_target
from drgn_thp.walk import Walk

from .dumps import UNREAD, Dump, ensure_dump
from .matrix import KERNELS, NO_HVO, Kernel, kernel
from .scenes import HVO
from .truth import questions, said
from .truth.answers import VACATED

pytestmark = pytest.mark.vm

HUGE_HEAD = numpy.uint64(1 << 15 | 1 << 17)
HAVE_THEM = [entry for entry in KERNELS if not entry.lacks & NO_HVO]
# Its node has no zone for movable memory, and some for the kernel.
OF_THE_KERNEL = replace(HVO, arguments=(*HVO.arguments, "memhp_default_state=online_kernel"))


def opened(dump: Dump) -> Context:
    spec = TargetSpec(core=str(dump.vmcore), symbols=(str(dump.vmlinux),), default_symbols="main")
    return Context.of(open_target(spec).prog)


def heads_of(dump: Dump) -> list[int]:
    """Return the first pages of all huge pages, by /proc/kpageflags."""
    flags = dump.kpageflags
    found: list[int] = numpy.flatnonzero((flags != UNREAD) & ((flags & HUGE_HEAD) == HUGE_HEAD)).tolist()
    return found


@pytest.mark.parametrize("entry", HAVE_THEM, ids=lambda entry: entry.name)
def test_struct_pages_that_are_one(entry: Kernel) -> None:
    """Each struct page at the start of a page may read as a head: it is a tail, and its head is found."""
    dump = ensure_dump(entry, scene=HVO)
    context = opened(dump)
    tables = list(Walk(context).folios(formulas.PageHuge))
    heads = heads_of(dump)
    assert len(heads) == 12
    assert [pfn for f in tables for pfn in f.pfn.tolist()] == heads
    assert all((f.order == 9).all() and f.hugetlb_vmemmap_optimized.all() for f in tables)
    for head in heads:
        assert {context.memmap.head_pfn(pfn) for pfn in range(head, head + 512)} == {head}
        for pfn in (head, head + 63, head + 64, head + 128, head + 511):
            f = context.read_folio(pfn)
            assert (int(f.pfn[0]), int(f.order[0]), bool(f.broken[0])) == (head, 9, False)


def test_memory_of_the_kernel_on_the_node() -> None:
    """What cannot be taken apart on a node with movable memory only, can be there."""
    dump = ensure_dump(kernel("6.1"), scene=OF_THE_KERNEL)
    heard = said.read(dump)
    lean = [folio for folio in heard.folios if folio.pfn in dump.hotplug_pfns]
    assert len(lean) == 6
    assert {folio.said[path]["verdict"] for folio in lean for path in ("contig", "offline")} == {"ok"}
    # Of one in use, the old page is free, and in the pool, when all has been moved: it is for the next try to take it.
    free = [folio for folio in lean if folio.scenarios == ("hugetlb_free",)]
    assert len(free) == 4
    _, answers = questions.unplug(dump, free, {name for folio in lean for name in folio.scenarios})
    assert {told.answer for told in answers.values()} <= VACATED
