# SPDX-License-Identifier: LGPL-2.1-or-later
"""
KVM: pages of virtual machines that the kernel itself has.

Memory of virtual machines is a process's: KVM maps it without a reference, and is told when it is moved. Held are only
what it writes to for a virtual machine inside another one, all memory of those whose memory is encrypted (SEV), and
memory that no process need have mapped (guest_memfd).
"""

from __future__ import annotations

from collections.abc import Iterator

from .ground import Ground
from .model import Claim, Damaged, Owner, Walker

MACHINE, MAP, ENCRYPTED, REGION = "struct kvm", "struct kvm_host_map", "struct kvm_svm", "struct enc_region"
FILE, MAPPING = "struct file", "struct address_space"
MAX_CPUS = 1 << 14
MAX_REGIONS = 1 << 16
PIECE = 1 << 20
"""Pages that are claimed at a time."""
MAX_FOLIOS = 1 << 24
# By module: the structure of a virtual CPU, and where in it are such pages.
CPUS = {
    "kvm_intel": (
        "struct vcpu_vmx",
        ("apic_access_page_map", "virtual_apic_map", "pi_desc_map", "msr_bitmap_map", "hv_evmcs_map"),
    ),
    "kvm_amd": ("struct vcpu_svm", ("ghcb_map",)),
}
_INSIDE = {"kvm_intel": "nested", "kvm_amd": "sev_es"}


def walk(ground: Ground) -> Iterator[Claim]:
    """Yield what each virtual CPU has mapped of its machine's memory, and all that is encrypted."""
    modules = [module for module in CPUS if module in ground.modules]
    for file, machine in ground.files.having([ground.symbol("kvm_vm_fops", "kvm")]):
        for module in modules:
            with ground.part(f"virtual machine {machine:#x}"):
                for cpu in _cpus(ground, machine):
                    yield from _maps(ground, module, cpu, Owner("virtual CPU", file=file))
                if module == "kvm_amd":
                    yield from _encrypted(ground, machine, Owner("encrypted memory of a virtual machine", file=file))


def _cpus(ground: Ground, machine: int) -> Iterator[int]:
    # An array in v5.10.
    if ground.has(MACHINE, "vcpu_array"):
        for _, cpu in ground.xarray(machine + ground.offset(MACHINE, "vcpu_array"), limit=MAX_CPUS):
            yield cpu
        return
    number = ground.uint(MACHINE, machine, "online_vcpus")
    if number > MAX_CPUS:
        raise Damaged(f"{number} virtual CPUs")
    yield from filter(None, ground.words(machine + ground.offset(MACHINE, "vcpus"), number).tolist())


def _maps(ground: Ground, module: str, cpu: int, owner: Owner) -> Iterator[Claim]:
    struct, members = CPUS[module]
    if not ground.has(struct):
        raise Damaged(f"nothing describes {struct}")
    own = cpu - ground.offset(struct, "vcpu")
    for member in members:
        name = f"{_INSIDE[module]}.{member}"
        if not ground.has(struct, name):
            continue
        at = own + ground.offset(struct, name)
        if not ground.pointer(MAP, at, "hva"):
            continue
        if ground.has(MAP, "pinned_page"):  # in v7.3; before, it was a reference
            yield Claim(owner, ground.pfns([ground.pointer(MAP, at, "pinned_page")]), pins=1)
        elif (pfn := ground.pointer(MAP, at, "pfn")) < ground.context.end_pfn:
            yield Claim(owner, [pfn], gets=1)


def _encrypted(ground: Ground, machine: int, owner: Owner) -> Iterator[Claim]:
    if not ground.has(ENCRYPTED):
        raise Damaged(f"nothing describes {ENCRYPTED}")
    if not ground.has(ENCRYPTED, "sev_info") or not ground.has(REGION):  # not configured
        return
    own = machine - ground.offset(ENCRYPTED, "kvm") + ground.offset(ENCRYPTED, "sev_info")
    info = "struct kvm_sev_info"
    if not ground.uint(info, own, "active"):
        return
    head = own + ground.offset(info, "regions_list")
    for region in ground.entries(head, ground.offset(REGION, "list"), MAX_REGIONS):
        with ground.part(f"encrypted memory {region:#x}"):
            count, pages = (ground.pointer(REGION, region, member) for member in ("npages", "pages"))
            if count > ground.context.end_pfn:
                raise Damaged(f"{count} pages")
            for start in range(0, count, PIECE):
                ground.step()
                some = ground.words(pages + 8 * start, min(PIECE, count - start))
                yield Claim(owner, ground.pfns(some), pins=1)


def walk_guest_memfd(ground: Ground) -> Iterator[Claim]:
    """Yield the pages of each file: their references are those of a page cache, and cannot be given up."""
    for file, _ in ground.files.having([ground.symbol("kvm_gmem_fops", "kvm")]):
        with ground.part(f"guest_memfd {file:#x}"):
            mapping = ground.pointer(FILE, file, "f_mapping")
            pages = [page for _, page in ground.xarray(mapping + ground.offset(MAPPING, "i_pages"), limit=MAX_FOLIOS)]
            owner = Owner("memory of a virtual machine", file=file)
            yield Claim(owner, ground.pfns(pages), gets=1, expected=True)


WALKERS = (
    Walker(
        kind="kvm",
        summary="a page of a virtual machine that KVM itself has: for a machine inside it, or because it is encrypted",
        frees="end the virtual machine",
        walk=walk,
        types=(MACHINE,),
        symbols=("kvm_vm_fops",),
        module="kvm",
    ),
    Walker(
        kind="guest-memfd",
        summary="a page of a guest_memfd, memory that only a virtual machine has: it cannot be moved",
        frees="end the virtual machine",
        walk=walk_guest_memfd,
        symbols=("kvm_gmem_fops", "kvm_vm_fops"),  # without the first, this kernel has none
        module="kvm",
    ),
)
