# SPDX-License-Identifier: LGPL-2.1-or-later
"""
vfio: memory that devices reach, of a virtual machine or of a driver in a process.

Of what is pinned, vfio keeps addresses only. Which pages they are is in the page tables of the IOMMU, which is exact;
where those are not understood, it is inferred from the page tables of the process, which may have put others there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from drgn import FaultError

from ..mappers.decoder import decoder_of
from .ground import Ground
from .iommu import Tables, domain_tables, pages_of
from .model import Claim, Damaged, Owner, Walker

CONTAINER, GROUP, DEVICE, OPENED = (
    "struct vfio_container",
    "struct vfio_group",
    "struct vfio_device",
    "struct vfio_device_file",
)
DRIVER, IOMMU, DOMAIN, DMA, PFN = (
    "struct vfio_iommu_driver",
    "struct vfio_iommu",
    "struct vfio_domain",
    "struct vfio_dma",
    "struct vfio_pfn",
)
MAX_DEVICES = 1 << 12
MAX_SIZE = 1 << 48


def walk(ground: Ground) -> Iterator[Claim]:
    """Yield what each container has pinned: each page once for each address that devices reach it by."""
    ground.choose(GROUP, "container", "vfio.c")  # in v5.10 there is one in vfio_iommu_type1.c, too
    operations = ground.symbol("vfio_iommu_driver_ops_type1", "vfio_iommu_type1")
    for container, files in _containers(ground).items():
        with ground.part(f"vfio container {container:#x}"):
            driver, iommu = (ground.pointer(CONTAINER, container, member) for member in ("iommu_driver", "iommu_data"))
            if not driver or not iommu or ground.pointer(DRIVER, driver, "ops") != operations:
                continue
            owner = Owner.by_files(_name(ground, container), files)
            tables = _domain(ground, iommu)
            for dma in ground.tree(iommu + ground.offset(IOMMU, "dma_list"), ground.offset(DMA, "node")):
                with ground.part(f"vfio mapping {dma:#x}"):
                    yield from _external(ground, dma, owner)
                    yield from _mapped(ground, dma, owner, tables)


def _containers(ground: Ground) -> dict[int, list[int]]:
    """Return all containers, each with the files that keep it: its own, and those of its groups and devices."""
    found: dict[int, list[int]] = {}
    for name, path in (("vfio_fops", _of_container), ("vfio_group_fops", _of_group), ("vfio_device_fops", _of_device)):
        for file, private in ground.files.having([ground.symbol(name, "vfio")]):
            with ground.part(f"vfio file {file:#x}"):
                container = path(ground, private)
                if container:
                    found.setdefault(container, []).append(file)
    return found


def _of_container(ground: Ground, container: int) -> int:
    return container


def _of_group(ground: Ground, group: int) -> int:
    return ground.pointer(GROUP, group, "container") if group else 0


def _of_device(ground: Ground, private: int) -> int:
    # In v6.12 a file has a structure of its own. A device that was opened without a group has none.
    device = ground.pointer(OPENED, private, "device") if private and ground.has(OPENED) else private
    return _of_group(ground, ground.pointer(DEVICE, device, "group")) if device else 0


def _name(ground: Ground, container: int) -> str:
    """Return which devices it is for, in words, as far as that can be told."""
    names = []
    with suppress(FaultError, LookupError):
        head, link = container + ground.offset(CONTAINER, "group_list"), ground.offset(GROUP, "container_next")
        for group in ground.entries(head, link, MAX_DEVICES):
            devices = group + ground.offset(GROUP, "device_list")
            for device in ground.entries(devices, ground.offset(DEVICE, "group_next"), MAX_DEVICES):
                address = ground.pointer("struct device", ground.pointer(DEVICE, device, "dev"), "kobj.name")
                names.append(ground.prog.read_c_string(address, max_size=64).decode("utf-8", "backslashreplace"))
    return f"memory for {', '.join(names)}" if names else "memory for devices"


def _domain(ground: Ground, iommu: int) -> Tables | None:
    """Return the page tables of the first domain that has any: all of them have the same pages, pinned once."""
    head = iommu + ground.offset(IOMMU, "domain_list")
    for domain in ground.entries(head, ground.offset(DOMAIN, "next"), MAX_DEVICES):
        tables = domain_tables(ground, ground.pointer(DOMAIN, domain, "domain"))
        if tables is not None:
            return tables
    return None


def _external(ground: Ground, dma: int, owner: Owner) -> Iterator[Claim]:
    """Yield what drivers of mediated devices have pinned by themselves, however often: one pin each."""
    pages = [
        ground.pointer(PFN, entry, "pfn")
        for entry in ground.tree(dma + ground.offset(DMA, "pfn_list"), ground.offset(PFN, "node"))
    ]
    if pages:
        yield Claim(owner, [pfn for pfn in pages if pfn < ground.context.end_pfn], pins=1)


def _mapped(ground: Ground, dma: int, owner: Owner, tables: Tables | None) -> Iterator[Claim]:
    if not ground.uint(DMA, dma, "iommu_mapped"):
        return
    address, start, size = (ground.pointer(DMA, dma, member) for member in ("vaddr", "iova", "size"))
    exact = tables is not None
    if tables is None:
        tables, start = _process(ground, dma), address
    if size > MAX_SIZE or start + size > 1 << 64:
        raise Damaged(f"{size} bytes at {start:#x}")
    for _, pages in pages_of(ground, tables, start, start + size):
        yield Claim(owner, pages, pins=1, exact=exact)


def _process(ground: Ground, dma: int) -> Tables:
    decoder = decoder_of(ground.prog)
    if decoder is None:
        raise Damaged("nothing decodes page tables of this architecture")
    if ground.has(DMA, "vaddr_invalid") and ground.uint(DMA, dma, "vaddr_invalid"):
        raise Damaged("where its memory is in the process is not known now")
    mm = ground.pointer(DMA, dma, "mm")
    return Tables(decoder, ground.context.virtual_to_pfn(ground.pointer("struct mm_struct", mm, "pgd")))


WALKERS = (
    Walker(
        kind="vfio",
        summary="a page that a device given to a process or virtual machine may reach (vfio, type 1)",
        frees="end the virtual machine, or unmap the memory (VFIO_IOMMU_UNMAP_DMA)",
        walk=walk,
        types=(CONTAINER, GROUP, DEVICE, DRIVER, IOMMU, DOMAIN, DMA, PFN),
        symbols=("vfio_iommu_driver_ops_type1",),
        module="vfio_iommu_type1",
    ),
)
