# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Functions for the prompt, named as in the kernel: the formulas of a scan, on a table of one row.

Each takes a ``struct page *`` or ``struct folio *``; a tail page stands for its folio. In the examples, ``example()``
is that of :mod:`drgn_thp.examples`: a page in a known state.
"""

from __future__ import annotations

from drgn import Object

from . import formulas
from .context import Context
from .folios import Column, Folios
from .gates import find_path


def _pfn(page: Object) -> tuple[Context, int]:
    context = Context.of(page.prog_)
    return context, (int(page.value_()) - context.layout.vmemmap) // context.layout.page_struct_size


def read_folio(page: Object) -> Folios:
    """
    Read the folio of a page: a table of one row with all its facts.

    >>> folio = read_folio(example("thp_held"))
    >>> int(folio.order[0]), int(folio.refcount[0])
    (9, 2)

    :param page: ``struct page *`` or ``struct folio *``
    :raises FaultError: if its struct pages cannot be read
    :raises UnknownLayout: if this kernel's ``struct page`` is not understood
    """
    context, pfn = _pfn(page)
    return context.read_folio(pfn)


def read_page(page: Object) -> Folios:
    """
    Read one struct page for itself, whatever folio it belongs to: a table of one row.

    >>> page = read_page(example("thp") + 5)
    >>> int(page.pfn[0]) % 512
    5

    :param page: ``struct page *``
    :raises FaultError: if it cannot be read
    """
    context, pfn = _pfn(page)
    return context.folios(context.memmap.rows_of_page(pfn))


def _one(column: Column) -> int:
    return int(column[0])


def page_mapcount(page: Object) -> int:
    """
    Return how often a page is mapped, by itself or as part of its folio.

    Removed from the kernel in v6.10; there this is what ``/proc/kpagecount`` shows.

    >>> page_mapcount(example("thp"))
    1
    >>> page_mapcount(example("thp_pte_3procs") + 5)
    3

    :param page: ``struct page *``; a tail page is asked about itself
    """
    context, pfn = _pfn(page)
    f = context.read_folio(pfn)
    if pfn == _one(f.pfn):
        return _one(formulas.page_mapcount(f))
    tail = context.folios(context.memmap.rows_of_page(pfn))
    return _one(formulas.page_mapcount(f, formulas.subpage_mapcount_of_head(tail)))


def folio_mapcount(page: Object) -> int:
    """
    Return how many page table entries map any part of the folio of a page; a mapping of the whole folio counts 1.

    Called total_mapcount() until v6.1.

    >>> folio_mapcount(example("thp"))
    1
    >>> folio_mapcount(example("thp_pte_3procs"))
    1536

    :return: Number of mappings, not of pages or processes
    """
    return _one(formulas.folio_mapcount(read_folio(page)))


total_mapcount = folio_mapcount


def folio_expected_ref_count(page: Object) -> int:
    """
    Return how many references of the folio of a page mm itself explains: mappings, caches, private data.

    In the kernel since v6.16; before, each path of migration counts for itself.

    >>> folio_expected_ref_count(example("tmpfs_thp_mapped"))
    513
    """
    return _one(formulas.folio_expected_ref_count(read_folio(page)))


def page_cache_references(page: Object) -> int:
    """
    Return how many references the page cache holds on the folio of a page: one for each page.

    >>> page_cache_references(example("tmpfs_thp_mapped"))
    512
    """
    return _one(formulas.page_cache_references(read_folio(page)))


def swapcache_references(page: Object) -> int:
    """
    Return how many references the swap cache holds on the folio of a page: one for each page.

    >>> swapcache_references(example("swapcache_thp"))
    512
    """
    return _one(formulas.swapcache_references(read_folio(page)))


def extra_references(page: Object) -> int:
    """
    Return how many references of the folio of a page nobody explains, per-CPU batches taken off.

    >>> extra_references(example("thp_held"))
    1
    """
    return _one(formulas.extra_references(read_folio(page)))


def folio_maybe_additionally_referenced(page: Object) -> bool:
    """
    Return whether the folio of a page has references that no part of mm explains.

    >>> folio_maybe_additionally_referenced(example("thp"))
    False
    >>> folio_maybe_additionally_referenced(example("thp_held") + 7)
    True
    """
    return bool(_one(formulas.folio_maybe_additionally_referenced(read_folio(page))))


def folio_maybe_dma_pinned(page: Object) -> bool:
    """
    Return whether the folio of a page has been pinned for DMA, or has 1024 references of another kind.

    >>> folio_maybe_dma_pinned(example("thp_held"))
    False
    """
    return bool(_one(formulas.folio_maybe_dma_pinned(read_folio(page))))


def can_split_folio(page: Object, caller_pins: int = 0) -> bool:
    """
    Return whether no reference stands in the way of splitting the folio of a page.

    The kernel dropped it in 7.x; this stays. The kernel calls it with ``caller_pins`` 1; in a dump nobody has a pin.

    >>> can_split_folio(example("thp")), can_split_folio(example("thp_held"))
    (True, False)
    """
    return bool(_one(formulas.can_split_folio(read_folio(page), caller_pins)))


def split_extra_pins(page: Object) -> int:
    """
    Return the extra pins of can_split_folio(): references of page or swap cache, which a split takes over.

    >>> split_extra_pins(example("thp")), split_extra_pins(example("tmpfs_thp_mapped"))
    (0, 512)
    """
    return _one(formulas.split_extra_pins(read_folio(page)))


def write_protect_page_balance(page: Object) -> int:
    """
    Return the references that keep KSM's write_protect_page() from merging a page; 0 if it may.

    >>> write_protect_page_balance(example("ksm"))
    0
    """
    return _one(formulas.write_protect_page_balance(read_folio(page)))


def migration_verdict(page: Object, path: str) -> str:
    """
    Return ``"ok"``, or the reason for which a path would refuse the folio of a page.

    >>> migration_verdict(example("thp"), "contig")
    'ok'
    >>> migration_verdict(example("thp_held"), "contig")
    'extra-reference'

    :param path: One of ``drgn_thp.gates.paths()``
    :raises BadArgument: if there is no such path
    """
    f = read_folio(page)
    path_here = find_path(path).of(f.kernel)
    primary = _one(path_here.judge(f).primary)
    return "ok" if primary < 0 else path_here.gates[primary].reason.name
