# SPDX-License-Identifier: LGPL-2.1-or-later
"""Holders that no guest of the lab can have, as the sources have them: each page that they name, and how it is held."""

from __future__ import annotations

from collections.abc import Iterator

import numpy
import pytest
from drgn import Program

from drgn_thp.folios import Column
from drgn_thp.holders import registry, vfio
from drgn_thp.holders.iommu import Tables, Vtd
from drgn_thp.holders.model import Owner
from drgn_thp.target import TargetSpec, open_target
from tests.fixture import ALL

from .forge import Forge, pages, weights

FIRST = 0x100
"""A page frame that is there."""


@pytest.fixture(scope="module")
def prog() -> Program:
    """One of our own."""
    return open_target(TargetSpec(core=str(ALL[1].core), default_symbols="none")).prog


@pytest.fixture
def forge(prog: Program) -> Forge:
    return Forge(prog)


def vdpa(forge: Forge, use_va: int = 0) -> int:
    """Have a device with two address spaces, one of them with two mappings; return the last mapping."""
    forge.struct("struct vhost_iotlb", list="list")
    forge.struct("struct vhost_iotlb_map", link="list", size="u64", addr="u64")
    forge.struct("struct vhost_vdpa_as", hash_link="struct hlist_node", iotlb="struct vhost_iotlb")
    forge.struct("struct vdpa_device", use_va="u8")
    forge.struct("struct vhost_vdpa", vdpa="u64", **{"as": forge.prog.array_type(forge._type("u64"), 16)})
    spaces = [forge.put("struct vhost_vdpa_as") for _ in range(2)]
    at = forge.ground.offset("struct vhost_vdpa_as", "iotlb.list")
    maps = [
        forge.put("struct vhost_iotlb_map", addr=pfn << 12, size=number << 12)
        for pfn, number in ((FIRST, 2), (FIRST + 8, 1), (FIRST, 1))
    ]
    forge.chain(spaces[0] + at, maps[0], maps[1])
    forge.chain(spaces[1] + at, maps[2])
    forge.write(spaces[0] + forge.ground.offset("struct vhost_vdpa_as", "hash_link.next"), spaces[1])
    own = forge.put("struct vhost_vdpa", vdpa=forge.put("struct vdpa_device", use_va=use_va))
    forge.write(own + forge.ground.offset("struct vhost_vdpa", "as") + 8 * 3, spaces[0])
    forge.file("vhost_vdpa_fops", own)
    return maps[2]


def test_vhost_vdpa(forge: Forge) -> None:
    """Each page once for each mapping; nothing where addresses are those of a process."""
    last = vdpa(forge)
    walker = registry().walkers["vhost-vdpa"]
    found = forge.claims(walker)
    assert pages(found) == [FIRST, FIRST, FIRST + 1, FIRST + 8]
    assert weights(found) == {(0, 1, True)}
    forge.write(last + forge.ground.offset("struct vhost_iotlb_map", "addr"), 1 << 60)
    assert len(list(walker.walk(forge.ground))) == 2
    assert "bytes at 0x1000000000000000" in forge.ground.outcome.first_failure


def test_vhost_vdpa_by_addresses_of_the_process(forge: Forge) -> None:
    vdpa(forge, use_va=1)
    assert forge.claims(registry().walkers["vhost-vdpa"]) == []


def machine(forge: Forge, module: str, **values: int) -> int:
    """Have a virtual machine, and the structures that KVM has for one."""
    forge.ground.__dict__["modules"] = frozenset(("kvm", module))
    forge.struct("struct kvm", vcpu_array="struct xarray")
    made = forge.put("struct kvm_svm" if module == "kvm_amd" else "struct kvm", **values)
    forge.file("kvm_vm_fops", made)
    return made


@pytest.mark.parametrize("pinned", [False, True])
def test_pages_for_nested_machines(forge: Forge, pinned: bool) -> None:
    """What a virtual CPU has mapped: a reference, or in newer kernels a pin. What is not mapped has stale addresses."""
    page = {"pinned_page": "u64"} if pinned else {}
    forge.struct("struct kvm_host_map", **page, hva="u64", pfn="u64")
    nested = forge.struct(
        "struct nested_vmx", apic_access_page_map="struct kvm_host_map", virtual_apic_map="struct kvm_host_map"
    )
    forge.struct("struct vcpu_vmx", vcpu="u64", nested=nested)
    own = machine(forge, "kvm_intel")
    cpu = forge.put("struct vcpu_vmx", nested__virtual_apic_map__hva=1, nested__virtual_apic_map__pfn=FIRST + 4)
    stale = {"nested__apic_access_page_map__pfn": FIRST + 9}
    if pinned:
        at = forge.ground.offset("struct vcpu_vmx", "nested.virtual_apic_map.pinned_page")
        forge.write(cpu + at, forge.page(FIRST + 4))
    for member, value in stale.items():
        forge.write(cpu + forge.ground.offset("struct vcpu_vmx", member.replace("__", ".")), value)
    forge.write(own + forge.ground.offset("struct kvm", "vcpu_array.xa_head"), cpu)
    found = forge.claims(registry().walkers["kvm"])
    assert pages(found) == [FIRST + 4]
    assert weights(found) == {(0, 1, True) if pinned else (1, 0, True)}


def encrypted(forge: Forge, active: int) -> int:
    """Have a virtual machine with one region of three pages; return the region."""
    forge.struct("struct kvm_host_map", hva="u64", pfn="u64")
    forge.struct("struct vcpu_svm", vcpu="u64")
    forge.struct("struct kvm", vcpu_array="struct xarray")
    info = forge.struct("struct kvm_sev_info", active="u8", regions_list="list")
    forge.struct("struct kvm_svm", kvm="struct kvm", sev_info=info)
    forge.struct("struct enc_region", list="list", npages="u64", pages="u64")
    own = machine(forge, "kvm_amd", sev_info__active=active)
    array = forge.words(*(forge.page(FIRST + i) for i in (7, 8, 7)))
    region = forge.put("struct enc_region", npages=3, pages=array)
    forge.chain(own + forge.ground.offset("struct kvm_svm", "sev_info.regions_list"), region)
    return region


def test_encrypted_memory(forge: Forge) -> None:
    """All of it is pinned."""
    region = encrypted(forge, active=1)
    walker = registry().walkers["kvm"]
    found = forge.claims(walker)
    assert pages(found) == [FIRST + 7, FIRST + 7, FIRST + 8]
    assert weights(found) == {(0, 1, True)}
    forge.write(region + forge.ground.offset("struct enc_region", "npages"), 1 << 50)
    assert "1125899906842624 pages" in forge.failure(walker)


def test_memory_that_is_not_encrypted(forge: Forge) -> None:
    """What its list may have is of no account."""
    encrypted(forge, active=0)
    assert forge.claims(registry().walkers["kvm"]) == []


def test_types_of_a_module_are_missing(forge: Forge) -> None:
    """That is said of each virtual machine."""
    own = machine(forge, "kvm_intel")
    forge.write(own + forge.ground.offset("struct kvm", "vcpu_array.xa_head"), forge.words(0))
    assert forge.failure(registry().walkers["kvm"]).endswith("nothing describes struct vcpu_vmx")


class Iommufd:
    """One address space with two areas of the same memory, of four pages: the second begins within a page."""

    def __init__(self, forge: Forge, monkeypatch: pytest.MonkeyPatch) -> None:
        kinds = forge.enum(IOMMUFD_OBJ_NONE=0, IOMMUFD_OBJ_IOAS=4)
        node = forge.struct("struct interval_tree_node", rb="struct rb_node", start="u64", last="u64")
        forge.struct("struct iommufd_object", type=kinds)
        forge.struct("struct iommufd_ctx", objects="struct xarray")
        table = forge.struct("struct io_pagetable", area_itree="u64")
        forge.struct("struct iommufd_ioas", obj="struct iommufd_object", iopt=table)
        forge.struct(
            "struct iopt_area", node=node, pages_node=node, pages="u64", storage_domain="u64", page_offset="u32"
        )
        forge.struct("struct iopt_pages", type="u32", pinned_pfns="struct xarray", domains_itree="u64")
        self.forge = forge
        self.pages = forge.put("struct iopt_pages")
        # Page frames by address, for each domain; what is at the boundary of a page.
        self.domains: dict[int, dict[int, int]] = {
            1: {0x10000: FIRST, 0x11000: FIRST + 1, 0x12000: FIRST + 2},
            2: {0x50000: FIRST + 2, 0x51000: FIRST + 3},
        }
        areas = [
            forge.put(
                "struct iopt_area",
                node__start=0x10000,
                pages_node__last=2,
                pages=self.pages,
                storage_domain=1,
            ),
            forge.put(
                "struct iopt_area",
                node__start=0x50200,
                pages_node__start=2,
                pages_node__last=3,
                pages=self.pages,
                storage_domain=2,
                page_offset=0x200,
            ),
        ]
        self.first = areas[0] + forge.ground.offset("struct iopt_area", "node.rb")
        for member, root in (("node", self.space(4)), ("pages_node", self.pages + self._at("domains_itree"))):
            link = forge.ground.offset("struct iopt_area", f"{member}.rb")
            forge.write(root, areas[0] + link)
            forge.write(areas[0] + link + forge.ground.offset("struct rb_node", "rb_right"), areas[1] + link)
        monkeypatch.setattr("drgn_thp.holders.iommufd.domain_tables", lambda ground, domain: Tables(Vtd(4), domain))
        monkeypatch.setattr("drgn_thp.holders.iommufd.pages_of", self._pages_of)

    def _at(self, member: str) -> int:
        return self.forge.ground.offset("struct iopt_pages", member)

    def space(self, kind: int) -> int:
        """Have a file with an object; return the root of the areas that it has as an address space."""
        space = self.forge.put("struct iommufd_ioas", obj__type=kind)
        self.forge.file("iommufd_fops", self.forge.put("struct iommufd_ctx", objects__xa_head=space))
        return space + self.forge.ground.offset("struct iommufd_ioas", "iopt.area_itree")

    def _pages_of(self, ground: object, tables: Tables, start: int, end: int) -> Iterator[tuple[Column, Column]]:
        found = {a: pfn for a, pfn in self.domains[tables.top].items() if start <= a < end}
        yield numpy.array(list(found), numpy.int64), numpy.array(list(found.values()), numpy.int64)


def test_iommufd(forge: Forge, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each page once, though one is in two areas; and those that the array has are in it alone."""
    made = Iommufd(forge, monkeypatch)
    walker = registry().walkers["iommufd"]
    found = forge.claims(walker)
    assert pages(found) == [FIRST, FIRST + 1, FIRST + 2, FIRST + 3]
    assert weights(found) == {(0, 1, True)}
    # An array of one: a value entry, which is its only one, at index 0.
    forge.write(made.pages + made._at("pinned_pfns.xa_head"), (FIRST << 1) | 1)
    assert pages(forge.claims(walker)) == [FIRST, FIRST + 1, FIRST + 2, FIRST + 3]
    forge.write(made.pages + made._at("type"), 2)
    assert forge.claims(walker) == []


def test_objects_of_iommufd_that_are_no_address_spaces(forge: Forge, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Iommufd(forge, monkeypatch)
    forge._files.clear()
    forge.write(made.space(0), made.first)
    assert forge.claims(registry().walkers["iommufd"]) == []


def test_pages_that_drivers_of_mediated_devices_pin(forge: Forge) -> None:
    """Each once, however many users it has; what vfio itself has not pinned for a device is not counted."""
    forge.struct("struct vfio_pfn", node="struct rb_node", pfn="u64", ref_count="u32")
    forge.struct("struct vfio_dma", pfn_list="u64", iommu_mapped="u8")
    entries = [forge.put("struct vfio_pfn", pfn=pfn, ref_count=3) for pfn in (FIRST, FIRST + 5, 1 << 50)]
    right = forge.ground.offset("struct rb_node", "rb_right")
    for one, following in zip(entries, entries[1:]):
        forge.write(one + right, following)
    dma = forge.put("struct vfio_dma", pfn_list=entries[0])
    owner = Owner("memory for devices")
    found = [*vfio._external(forge.ground, dma, owner), *vfio._mapped(forge.ground, dma, owner, None)]
    assert pages(found) == [FIRST, FIRST + 5]
    assert weights(found) == {(0, 1, True)}


def registered(forge: Forge, driver: int, **values: int) -> None:
    """Have a region of memory of mlx5's."""
    forge.struct("struct ib_uverbs_file", uobjects="list")
    forge.struct("struct uverbs_api_object", id="u32")
    forge.struct("struct ib_uobject", object="u64", list="list", uapi_object="u64")
    operations = forge.struct("struct ib_device_ops", driver_id="u32")
    forge.struct("struct ib_device", ops=operations)
    forge.struct("struct ib_mr", device="u64")
    forge.struct("struct mlx5_ib_mr", mmkey="u64", ibmr="struct ib_mr", umem="u64")
    table = forge.struct("struct sg_table", sgl="u64", orig_nents="u32")
    append = forge.struct("struct sg_append_table", sgt=table)
    forge.struct("struct ib_umem", is_odp="u8", is_dmabuf="u8", sgt_append=append)
    pieces = forge.allocate(2 * forge.ground.size("struct scatterlist"))
    for i, (pfn, length) in enumerate(((FIRST, 8192), (FIRST + 9, 100))):
        piece = pieces + i * forge.ground.size("struct scatterlist")
        forge.write(piece + forge.ground.offset("struct scatterlist", "page_link"), forge.page(pfn) | (i << 1))
        forge.write(piece + forge.ground.offset("struct scatterlist", "offset"), length << 32)
    memory = forge.put("struct ib_umem", sgt_append__sgt__sgl=pieces, sgt_append__sgt__orig_nents=2, **values)
    device = forge.put("struct ib_device", ops__driver_id=driver)
    region = forge.put("struct mlx5_ib_mr", ibmr__device=device, umem=memory)
    kind = forge.put("struct uverbs_api_object", id=7)
    other = forge.put("struct ib_uobject", uapi_object=forge.put("struct uverbs_api_object", id=1))
    inside = forge.ground.offset("struct mlx5_ib_mr", "ibmr")
    entry = forge.put("struct ib_uobject", object=region + inside, uapi_object=kind)
    own = forge.put("struct ib_uverbs_file")
    link = forge.ground.offset("struct ib_uobject", "list")
    forge.chain(own, other + link, entry + link)
    forge.file("uverbs_mmap_fops", own)


def test_registered_memory(forge: Forge) -> None:
    """Of a driver whose devices the lab does not have."""
    registered(forge, 1)
    found = forge.claims(registry().walkers["rdma"])
    assert pages(found) == [FIRST, FIRST + 1, FIRST + 9]
    assert weights(found) == {(0, 1, True)}


@pytest.mark.parametrize("how", ["is_odp", "is_dmabuf"])
def test_registered_memory_that_is_not_held(forge: Forge, how: str) -> None:
    registered(forge, 1, **{how: 1})
    assert forge.claims(registry().walkers["rdma"]) == []


def test_registered_memory_of_an_unknown_driver(forge: Forge) -> None:
    registered(forge, 18)
    assert forge.failure(registry().walkers["rdma"]).endswith("nothing describes what driver 18 makes")


def dma_buffer(forge: Forge, operations: str) -> None:
    """Have a DMA buffer of 12 KiB."""
    forge.struct("struct dma_buf", size="u64", ops="u64", exp_name="u64", priv="u64")
    name = forge.words(int.from_bytes(b"card", "little"))
    buffer = forge.put("struct dma_buf", size=3 << 12, ops=forge.symbol(operations), exp_name=name)
    forge.file("dma_buf_fops", buffer)


def test_buffers_of_unknown_exporters(forge: Forge) -> None:
    """Counted, by who made them, their size and who has them."""
    dma_buffer(forge, "card_ops")
    failure = forge.failure(registry().walkers["dma-buf"])
    assert "DMA buffer of card, 12 KiB, open in 1234: only its driver knows" in failure
    assert forge.ground.outcome.failures == 1


def test_buffers_of_known_exporters(forge: Forge) -> None:
    dma_buffer(forge, "udmabuf_ops")
    dma_buffer(forge, "system_heap_buf_ops")
    assert forge.claims(registry().walkers["dma-buf"]) == []


@pytest.mark.parametrize("known", [False, True])
def test_buffers_of_graphics_drivers(forge: Forge, known: bool) -> None:
    """Of some, pages are known; it is their functions that tell."""
    dma_buffer(forge, "drm_gem_prime_dmabuf_ops")
    forge.struct("struct drm_gem_object", funcs="u64")
    entry = forge.put("struct drm_gem_object", funcs=forge.symbol("drm_gem_shmem_funcs" if known else "others"))
    forge.write(forge._files[0][2] + forge.ground.offset("struct dma_buf", "priv"), entry)
    walker = registry().walkers["dma-buf"]
    assert forge.claims(walker) == [] if known else "only its driver" in forge.failure(walker)
