# SPDX-License-Identifier: LGPL-2.1-or-later
"""
process_vm_readv(2) and process_vm_writev(2): pages of another process that a task has pinned while it copies.

They are in an array on its stack, or in one that its stack has the address of; how many of it are in use is inferred.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy
from drgn import StackFrame

from ..folios import Column
from .frames import LiveStacks
from .ground import Ground
from .model import Claim, Damaged, Owner, Walker

CORE = "process_vm_rw_core"
# Which functions compilers made of it: it may be inlined in another one, and still have a frame of its own.
SYMBOLS = (CORE, "process_vm_rw")
_ON_STACK = 16  # PVM_MAX_PP_ARRAY_COUNT
_MAX_PAGES = 1024  # PVM_MAX_KMALLOC_PAGES, as pointers


def walk(ground: Ground) -> Iterator[Claim]:
    """Yield what each task has pinned that is in such a call, by its stack."""
    stacks = LiveStacks.of(ground)
    for live in stacks.within(SYMBOLS):
        with ground.part(f"stack of {live.task.pid}"):
            pages = _pages(ground, stacks.trace(live.task))
            if len(pages):
                yield Claim(Owner("process_vm_readv or _writev", task=live.task.address), pages, pins=1, exact=False)


def _pages(ground: Ground, trace: list[StackFrame]) -> Column:
    """Return the pages in the array, up to the first entry that is none."""
    frame = next((frame for frame in trace if frame.name == CORE), None)
    if frame is None:  # a word that was left of an earlier call
        return numpy.zeros(0, numpy.int64)
    try:
        array, chosen = frame["pp_stack"], frame["process_pages"]
    except KeyError:
        raise Damaged("nothing describes the variables of its functions") from None
    start = array.address_
    if start is None:
        raise Damaged("its array is not in memory")
    count = _ON_STACK
    if not chosen.absent_ and int(chosen.value_()) != start:
        start, count = int(chosen.value_()), _MAX_PAGES
    words = ground.words(start, count)
    layout = ground.context.layout
    low, high = layout.vmemmap, layout.vmemmap + ground.context.end_pfn * layout.page_struct_size
    offset = words - numpy.uint64(low)
    good = (words >= numpy.uint64(low)) & (words < numpy.uint64(high))
    good &= offset % numpy.uint64(layout.page_struct_size) == 0
    return ground.pfns(words[: count if good.all() else int(numpy.argmin(good))])


WALKERS = (
    Walker(
        kind="process-vm",
        summary="a page that process_vm_readv(2) or process_vm_writev(2) of another process copies",
        frees="wait until the copy is done, or end the process that copies",
        walk=walk,
        symbols=(*SYMBOLS, f"{CORE}.isra.0", f"{CORE}.constprop.0"),
        transient=True,
    ),
)
