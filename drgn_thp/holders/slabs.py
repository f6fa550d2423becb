# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The objects of slab caches, found in bulk: one look at each struct page, and no drgn objects.

SLUB keeps no list of full slabs, so there is no other way than through the memmap. Free objects are among those that
are found: what is in use must be told by what is in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy
from drgn import FaultError, Program, Type
from drgn.helpers.linux.list import list_for_each_entry
from drgn.helpers.linux.mm import phys_to_virt

from ..blocks import online_ranges, read_blocks
from ..context import Context
from ..folios import Column
from ..pagetype import PageType

MAX_CACHES = 1 << 14
MAX_SLAB_ORDER = 10
_SMALLEST_READ = 64  # struct pages: where a read fails, this much is given up at least


@dataclass
class SlabCache:
    """A cache, and where its slabs are."""

    name: str
    address: int
    size: int
    """Bytes from one object to the next."""
    first: int
    """Bytes in front of an object: a red zone, when debugging."""
    pfns: list[int] = field(default_factory=list)
    orders: list[int] = field(default_factory=list)


@dataclass
class Slabs:
    """Slabs of some caches."""

    caches: list[SlabCache]
    unreadable_pages: int = 0


def _member(type_: Type, name: str) -> int:
    return int(type_.member(name).bit_offset) // 8


def find_caches(prog: Program, names: frozenset[str], addresses: frozenset[int] = frozenset()) -> list[SlabCache]:
    """
    Return the caches of these names or addresses.

    Where caches may be merged, several kinds of objects share one, under the name of the first.

    :raises FaultError: if the list of caches cannot be read
    """
    found = []
    for count, cache in enumerate(list_for_each_entry("struct kmem_cache", prog["slab_caches"].address_of_(), "list")):
        if count >= MAX_CACHES:
            break
        try:
            name = cache.name.string_().decode("utf-8", "backslashreplace")
        except FaultError:
            continue
        if name in names or int(cache.value_()) in addresses:
            type_ = cache.type_.type.unaliased()
            size = int(cache.size)
            first = int(cache.red_left_pad) if type_.has_member("red_left_pad") else 0
            if 8 <= size <= 1 << 22 and first < size:
                found.append(SlabCache(name, int(cache.value_()), size, first))
    return found


def find_slabs(context: Context, caches: list[SlabCache]) -> Slabs:
    """Look through the memmap for the slabs of some caches."""
    slabs = Slabs(caches)
    if not caches:
        return slabs
    prog, memmap = context.prog, context.memmap
    # struct slab lies over struct page: d122019bf061 ("mm: Split slab into its own type") (in v5.17)
    try:
        offset = _member(prog.type("struct slab"), "slab_cache")
    except LookupError:
        offset = _member(prog.type("struct page"), "slab_cache")
    runs = context.sections.runs()
    for block in read_blocks(prog, context.sections)[0]:
        for start, end in online_ranges(block, runs):
            pfn = memmap.free_until(start, end)
            while pfn < end:
                count = min(memmap.pages_per_chunk - pfn % memmap.pages_per_chunk, end - pfn)
                _look(context, slabs, offset, pfn, count)
                pfn = memmap.free_until(pfn + count, end)
    return slabs


def _look(context: Context, slabs: Slabs, offset: int, pfn: int, count: int) -> None:
    """Look at a piece, and where that cannot be read at its halves."""
    memmap = context.memmap
    try:
        chunk = memmap.read(pfn, count)
    except FaultError:
        if count <= _SMALLEST_READ:
            slabs.unreadable_pages += count
            return
        half = max(count // 2 // _SMALLEST_READ * _SMALLEST_READ, _SMALLEST_READ)
        _look(context, slabs, offset, pfn, half)
        _look(context, slabs, offset, pfn + half, count - half)
        return
    dtype = context.layout.fields["flags"].dtype  # a word
    words = numpy.ndarray((chunk.count,), dtype, chunk.data, offset, (chunk.size,))
    for cache in slabs.caches:
        indices = numpy.flatnonzero(words == cache.address)
        if len(indices):
            rows = memmap.rows(chunk, indices)
            f = memmap.folios(rows)
            good = (f.type == PageType.SLAB) & (f.order <= MAX_SLAB_ORDER)
            cache.pfns += f.pfn[good].tolist()
            cache.orders += f.order[good].tolist()


def objects(
    context: Context, cache: SlabCache, dtype: numpy.dtype[numpy.void], failures: list[str]
) -> Iterator[tuple[Column, Column]]:
    """
    Yield addresses of objects, and their fields, slab by slab.

    :param dtype: Of one object, its size that of the cache
    :param failures: Told how many slabs could not be read
    """
    shift, prog = context.kernel.page_shift, context.prog
    base = int(phys_to_virt(prog, 0).value_())
    failed, first = 0, ""
    for pfn, order in zip(cache.pfns, cache.orders):
        address = base + (pfn << shift) + cache.first
        count = ((1 << order + shift) - cache.first) // cache.size
        try:
            data = prog.read(address, count * cache.size)
        except FaultError as error:
            failed, first = failed + 1, first or str(error)
            continue
        indices = numpy.arange(count, dtype=numpy.uint64)
        yield numpy.uint64(address) + indices * numpy.uint64(cache.size), numpy.frombuffer(data, dtype)
    if failed:
        failures.append(f"{failed} slabs of {cache.name} cannot be read: {first}")
