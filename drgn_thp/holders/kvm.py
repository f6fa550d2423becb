# SPDX-License-Identifier: LGPL-2.1-or-later
"""
KVM: memory of virtual machines that no process need have mapped (guest_memfd).

Other memory of virtual machines is a process's: KVM maps it without a reference, and is told when it is moved.
"""

from __future__ import annotations

from collections.abc import Iterator

from .ground import Ground
from .model import Claim, Owner, Walker

FILE, MAPPING = "struct file", "struct address_space"
MAX_FOLIOS = 1 << 24


def walk(ground: Ground) -> Iterator[Claim]:
    """Yield the pages of each file: their references are those of a page cache, and cannot be given up."""
    for file, _ in ground.files.having([ground.symbol("kvm_gmem_fops", "kvm")]):
        with ground.part(f"guest_memfd {file:#x}"):
            mapping = ground.pointer(FILE, file, "f_mapping")
            pages = [page for _, page in ground.xarray(mapping + ground.offset(MAPPING, "i_pages"), limit=MAX_FOLIOS)]
            owner = Owner("memory of a virtual machine", file=file)
            yield Claim(owner, ground.pfns(pages), gets=1, expected=True)


WALKERS = (
    Walker(
        kind="guest-memfd",
        summary="a page of a guest_memfd, memory that only a virtual machine has: it cannot be moved",
        frees="end the virtual machine",
        walk=walk,
        symbols=("kvm_gmem_fops", "kvm_vm_fops"),  # without the first, this kernel has none
        module="kvm",
    ),
)
