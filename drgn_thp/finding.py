# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where a page is, and which folios there are: helpers named as in the kernel, or as drgn would name them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Union

from drgn import Object, Program
from drgn.helpers.common.prog import takes_program_or_default

from .blocks import Block, read_blocks
from .context import Context
from .errors import BadArgument
from .folios import Column
from .formulas import is_free
from .gates import find_path
from .layout import find_type
from .scan import Scan
from .session import Session
from .walk import Walk

BlockLike = Union[int, Object, None]


def _place(page: Object) -> tuple[Context, int]:
    context = Context.of(page.prog_)
    return context, (int(page.value_()) - context.layout.vmemmap) // context.layout.page_struct_size


def page_zone(page: Object) -> Object:
    """
    Return the zone of a page, by the bits in its flags.

    >>> page_zone(example("thp")).name.string_()
    b'Movable'

    :param page: ``struct page *`` or ``struct folio *``
    :return: ``struct zone *``
    """
    context, pfn = _place(page)
    f = context.memmap.folios(context.memmap.rows_of_page(pfn))
    node, zone = int(f.node[0]), int(f.zone[0])
    try:
        pgdat = context.prog["node_data"][node]
    except KeyError:  # CONFIG_NUMA is not set
        pgdat = context.prog["contig_page_data"].address_of_()
    return pgdat.node_zones[zone].address_of_()


def get_pageblock_migratetype(page: Object) -> Object:
    """
    Return the migrate type of the pageblock that a page lies in.

    >>> print(get_pageblock_migratetype(example("thp")))
    (enum migratetype)MIGRATE_MOVABLE

    :param page: ``struct page *`` or ``struct folio *``
    :return: ``enum migratetype``
    :raises FaultError: if the flags of the pageblock cannot be read
    """
    context, pfn = _place(page)
    section = context.sections.index(pfn)
    if section is None:
        raise BadArgument(f"there is no page frame {pfn:#x} in this target")
    index = pfn % context.sections.pages_per_section >> context.pageblocks.pageblock_order
    return Object(context.prog, "enum migratetype", context.pageblocks.migratetype(section, index))


def _blocks(context: Context, block: BlockLike) -> list[Block]:
    """Return the memory block that is meant; all if none is."""
    blocks, _ = read_blocks(context.prog, context.sections)
    if block is None:
        return blocks
    if isinstance(block, Object):
        pfn = int(block.start_section_nr) * context.sections.pages_per_section
        found = [each for each in blocks if each.start_pfn == pfn]
    else:
        found = [each for each in blocks if each.id == block]
    if not found:
        raise BadArgument(f"no such memory block: {block}")
    return found


def _objects(context: Context, pfns: Column) -> Iterator[Object]:
    # struct folio came with v5.16.
    type_ = "struct page *" if find_type(context.prog, "struct folio") is None else "struct folio *"
    for pfn in pfns.tolist():
        yield Object(context.prog, type_, context.memmap.page_address(pfn))


@takes_program_or_default
def for_each_folio(prog: Program, block: BlockLike = None) -> Iterator[Object]:
    """
    Iterate over the folios of a memory block that are in use, in ascending order.

    What cannot be read is left out; :class:`drgn_thp.walk.Walk` counts it.

    >>> sum(folio_test_ksm(folio) for folio in for_each_folio(example("thp").prog_, 32))
    2

    :param block: Number of the block as in /sys/devices/system/memory, or ``struct memory_block *``; all memory if none
    :return: Iterator of ``struct folio *`` (``struct page *`` before v5.16)
    :raises BadArgument: if there is no such block
    """
    context = Session.of(prog).context
    for f in Walk(context, _blocks(context, block)).folios(lambda f: ~is_free(f)):
        yield from _objects(context, f.pfn)


@takes_program_or_default
def for_each_refused_folio(prog: Program, path: str, block: BlockLike = None) -> Iterator[Object]:
    """
    Iterate over the folios that a path of migration would refuse.

    >>> [hex(page_to_pfn(cast("struct page *", folio))) == hex(page_to_pfn(example("mthp_held")))
    ...  for folio in for_each_refused_folio(example("thp").prog_, "split", 32)][0]
    True

    :param path: One of ``drgn_thp.gates.paths()``
    :param block: As for :func:`for_each_folio`
    :return: Iterator of ``struct folio *`` (``struct page *`` before v5.16)
    :raises BadArgument: if there is no such path or block
    """
    context = Session.of(prog).context
    path_here = find_path(path).of(context.kernel)
    for census in Scan(context, [path_here]).blocks(_blocks(context, block)):
        if census.refused is not None:
            refused = path_here.judge(census.refused).primary >= 0
            yield from _objects(context, census.refused.pfn[refused])
