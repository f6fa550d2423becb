# SPDX-License-Identifier: LGPL-2.1-or-later
"""
iommufd: memory that devices reach, of a virtual machine or of a driver in a process; what vfio had before.

Each page of some memory is pinned once, however many devices reach it. Where it is noted differs: in an array if the
kernel itself wants it, and else only in the page tables of an IOMMU.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy

from .ground import Ground
from .iommu import domain_tables, pages_of
from .model import Claim, Damaged, Owner, Walker

FILE, OBJECT, SPACE = "struct iommufd_ctx", "struct iommufd_object", "struct iommufd_ioas"
AREA, PAGES = "struct iopt_area", "struct iopt_pages"
MAX_INDEX = 1 << 32
_SPACES = "IOMMUFD_OBJ_IOAS"
_DMABUF = 2  # IOPT_ADDRESS_DMABUF
_PAGE = 12


def walk(ground: Ground) -> Iterator[Claim]:
    """Yield what is pinned of all memory that the address spaces of each file have."""
    for file, own in ground.files.having([ground.symbol("iommufd_fops", "iommufd")]):
        with ground.part(f"iommufd {own:#x}"):
            wanted = _number(ground)
            seen: set[int] = set()
            for _, entry in ground.xarray(own + ground.offset(FILE, "objects")):
                if ground.uint(OBJECT, entry, "type") != wanted:
                    continue
                space = entry - ground.offset(SPACE, "obj")
                root = space + ground.offset(SPACE, "iopt.area_itree")
                for area in ground.tree(root, ground.offset(AREA, "node.rb")):
                    pages = ground.pointer(AREA, area, "pages")
                    if pages and pages not in seen:
                        seen.add(pages)
                        with ground.part(f"memory {pages:#x} of iommufd"):
                            yield from _pinned(ground, pages, Owner("memory for devices", file=file))


def _number(ground: Ground) -> int:
    """Return which type of object is an address space."""
    enumerators = ground.type(OBJECT).member("type").type.unaliased().enumerators or ()
    return next(int(one.value) for one in enumerators if one.name == _SPACES)


def _pinned(ground: Ground, pages: int, owner: Owner) -> Iterator[Claim]:
    # Memory of a DMA buffer is its exporter's; there is none in v6.12.
    if ground.has(PAGES, "type") and ground.uint(PAGES, pages, "type") == _DMABUF:
        return
    noted = dict(_in_array(ground, pages))
    if noted:
        yield Claim(owner, list(noted.values()), pins=1)
    done: list[tuple[int, int]] = []
    for area in ground.tree(pages + ground.offset(PAGES, "domains_itree"), ground.offset(AREA, "pages_node.rb")):
        domain = ground.pointer(AREA, area, "storage_domain")
        first, last = (ground.pointer(AREA, area, f"pages_node.{end}") for end in ("start", "last"))
        if not domain or not first <= last < MAX_INDEX:
            raise Damaged(f"pages {first} to {last} of {pages:#x}")
        tables = domain_tables(ground, domain)
        if tables is None:
            raise Damaged("page tables of an IOMMU that are not understood")
        # Addresses are of bytes, and need not begin with a page.
        start = ground.pointer(AREA, area, "node.start") - ground.uint(AREA, area, "page_offset")
        for addresses, found in pages_of(ground, tables, start, start + (last + 1 - first << _PAGE)):
            index = first + ((addresses - start) >> _PAGE)
            fresh = ~numpy.isin(index, list(noted))
            for low, high in done:
                fresh &= (index < low) | (index > high)
            yield Claim(owner, found[fresh], pins=1)
        done.append((first, last))


def _in_array(ground: Ground, pages: int) -> Iterator[tuple[int, int]]:
    """Yield index and page frame of what the array has: as values, one more than twice as large."""
    array = pages + ground.offset(PAGES, "pinned_pfns")
    for index, entry in ground.xarray(array, values=True):
        yield index, entry >> 1


WALKERS = (
    Walker(
        kind="iommufd",
        summary="a page that a device given to a process or virtual machine may reach (iommufd)",
        frees="end the virtual machine, or unmap the memory (IOMMU_IOAS_UNMAP)",
        walk=walk,
        types=(FILE, OBJECT, SPACE, AREA, PAGES),
        symbols=("iommufd_fops",),
        module="iommufd",
    ),
)
