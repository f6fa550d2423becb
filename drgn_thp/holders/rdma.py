# SPDX-License-Identifier: LGPL-2.1-or-later
"""
RDMA: memory that processes have registered with devices.

What is registered is an object of the device's driver, which has the pages in a structure that all drivers share. Where
in its own structure that is differs from driver to driver.
"""

from __future__ import annotations

from collections.abc import Iterator

from .ground import Ground
from .model import Claim, Damaged, Owner, Walker
from .scatter import Scatter

FILE, OBJECT, KIND = "struct ib_uverbs_file", "struct ib_uobject", "struct uverbs_api_object"
REGION, DEVICE, MEMORY = "struct ib_mr", "struct ib_device", "struct ib_umem"
MAX_PIECES = 1 << 24
_REGIONS = 7  # UVERBS_OBJECT_MR
# By enum rdma_driver_id, which is ABI: the structure, and in it the region and its memory.
DRIVERS = {
    1: ("struct mlx5_ib_mr", "ibmr", "umem"),
    2: ("struct mlx4_ib_mr", "ibmr", "umem"),
    6: ("struct bnxt_re_mr", "ib_mr", "ib_umem"),
    9: ("struct irdma_mr", "ibmr", "region"),
    14: ("struct rxe_mr", "ibmr", "umem"),
    15: ("struct rvt_mr", "ibmr", "umem"),  # hfi1
    16: ("struct rvt_mr", "ibmr", "umem"),  # qib
    17: ("struct efa_mr", "ibmr", "umem"),
    20: ("struct mana_ib_mr", "ibmr", "umem"),
}


def walk(ground: Ground) -> Iterator[Claim]:
    """Yield the pages of each region that was registered: each is pinned once."""
    scatter = Scatter(ground)
    operations = [ground.symbol(name, "ib_uverbs") for name in ("uverbs_fops", "uverbs_mmap_fops")]
    for file, own in ground.files.having(operations):
        with ground.part(f"RDMA file {own:#x}"):
            head, link = own + ground.offset(FILE, "uobjects"), ground.offset(OBJECT, "list")
            for entry in ground.entries(head, link):
                with ground.part(f"RDMA object {entry:#x}"):
                    if ground.uint(KIND, ground.pointer(OBJECT, entry, "uapi_object"), "id") == _REGIONS:
                        yield from _region(ground, scatter, ground.pointer(OBJECT, entry, "object"), file)


def _region(ground: Ground, scatter: Scatter, region: int, file: int) -> Iterator[Claim]:
    driver = ground.uint(DEVICE, ground.pointer(REGION, region, "device"), "ops.driver_id")
    struct, inside, member = DRIVERS.get(driver, ("", "", ""))
    if not struct or not ground.has(struct, member):
        raise Damaged(f"nothing describes {struct or f'what driver {driver} makes'}")
    memory = ground.pointer(struct, region - ground.offset(struct, inside), member)
    if not memory:
        return
    fields = ground.object(MEMORY, memory)
    # On demand, pages are not held; those of a DMA buffer are its exporter's.
    if any(fields.member_(name).value_() for name in ("is_odp", "is_dmabuf") if ground.has(MEMORY, name)):
        return
    table = "sgt_append.sgt" if ground.has(MEMORY, "sgt_append") else "sg_head"  # of v5.10
    count = ground.uint(MEMORY, memory, f"{table}.orig_nents")
    if count > MAX_PIECES:
        raise Damaged(f"{count} pieces")
    pages = scatter.pages(ground.pointer(MEMORY, memory, f"{table}.sgl"), count)
    yield Claim(Owner("registered memory", file=file), ground.pfns(pages), pins=1)


WALKERS = (
    Walker(
        kind="rdma",
        summary="a page that is registered with a device for RDMA",
        frees="deregister the memory region (ibv_dereg_mr), or end the process",
        walk=walk,
        types=(FILE, OBJECT, KIND, REGION, DEVICE, MEMORY),
        symbols=("uverbs_fops",),
        module="ib_uverbs",
    ),
)
