# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The guests that are made of each kernel: a scene is a program of ``workload``, and the machine that it wants.

What would get into each other's way is in scenes of its own: a page whose writeback never ends stops every path that
comes by. A new scene is a folder in ``workload`` and an entry here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from . import images


@dataclass(frozen=True)
class Scene:
    """
    What a guest is made of.

    :ivar name: Of the program, and in the cache.
    :ivar modules: Modules to load besides those that every guest needs.
    :ivar arguments: For the kernel's command line.
    :ivar devices: For the emulator's.
    :ivar files: Files for the initramfs, by path, and what makes them.
    :ivar before_ready: Commands for the emulator's monitor, each given when the workload asks for it by its name.
    :ivar plugged_mib: How much of the hot-pluggable memory the guest is given; all of it if not said.
    """

    name: str
    modules: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    files: dict[str, Callable[[], bytes]] = field(default_factory=dict)
    memory_mib: int = 448
    hotplug_mib: int = 512
    before_ready: tuple[tuple[str, dict[str, int]], ...] = ()
    plugged_mib: int | None = None
    cpus: int = 2

    def __hash__(self) -> int:
        return hash(self.name)


LAB = Scene("lab")

HUGE = Scene("huge")

FILES = Scene(
    "files",
    modules=("fuse", "romfs", "nls_cp437", "nls_ascii", "vfat", "lzo_rle", "zram", "virtio_balloon", "btrfs", "xfs"),
    devices=("-device", "virtio-balloon-pci,id=balloon"),
    files={
        "romfs.img": images.romfs,
        "vfat.img": images.vfat,
        "ext4-16k.img": images.ext4_16k,
        "btrfs.img": images.btrfs,
        "xfs.img": images.xfs,
    },
    # What the guest is to be left with: 4 MiB less than its boot memory.
    before_ready=(("balloon", {"value": 444 << 20}),),
    plugged_mib=496,
    # One for each thing to do that empties the batches of its own CPU.
    cpus=3,
)

STUCK = Scene("stuck", modules=("nbd", "fuse"))

PINS = Scene("pins", modules=("nbd",))

# Without a zone for movable memory, among the kernel's own. Blocks of boot memory that are free to begin with.
NORMAL = Scene("normal", memory_mib=1024, arguments=("memhp_default_state=online_kernel",))

# The same beside memory for movable pages only.
BOOT = Scene("boot", memory_mib=1024)

# What is moved off the full node has to fit into boot memory.
EXHAUSTED = Scene("exhausted", memory_mib=1024)

POISON = Scene("poison")

# Boot memory of which one whole GiB can be set aside, and two that can become one page each, behind the kernel's own.
# The kernel itself must not be in the middle of it, where chance might put it.
GIGANTIC = Scene(
    "gigantic",
    memory_mib=2304,
    hotplug_mib=3072,
    arguments=("memhp_default_state=online_kernel", "nokaslr", "hugetlb_cma=0:1G"),
)

# Huge pages give their struct pages back, but for one page of them, and want memory for them when they are taken apart.
HVO = Scene("hvo", arguments=("hugetlb_free_vmemmap=on",))

# The kernel is not asked about these: what is tested is who holds what.
HOLDERS = Scene(
    "holders",
    modules=(
        *("nbd", "vfio_iommu_type1", "vfio_pci", "vmw_vmci", "orangefs", "rds_tcp", "fuse", "kvm_amd", "vhost_vdpa"),
        *("dm_mod", "raid1", "tls", "gcm", "ctr", "ghash_generic"),
    ),
    # The kernel is not to wait for its timer to tell whether it works: on a busy machine it may seem not to.
    arguments=("intel_iommu=on", "no_timer_check"),
    # Devices that may be given away: for each, an IOMMU has page tables of what it may reach.
    # It does not deal with interrupts.
    devices=("-machine", "q35", "-device", "intel-iommu,intremap=off", *("-device", "pci-testdev") * 2),
    files={"journal.img": images.ext4_journal},
    memory_mib=512,
)
# The same of what the smaller kernels have no drivers for.
DRIVERS = Scene(
    "drivers",
    modules=("crc32_generic", "rdma_rxe", "ib_uverbs", "vgem"),
    arguments=("no_timer_check",),
    memory_mib=512,
)
KINDS_OF_DRIVERS = ("rdma", "drm")
"""What finds holders that only this one shows."""
# Tasks that migrate, and wait for ever: while they do, no batch keeps anything, and one of the above has a batch.
ISOLATED = Scene("isolated", modules=("nbd",), memory_mib=512)
# Many processes and files: how long it takes to find who holds what.
CROWD = Scene("crowd", memory_mib=1024)

SCENES: tuple[Scene, ...] = (LAB, FILES, HUGE, STUCK, PINS, NORMAL, BOOT, EXHAUSTED, POISON, GIGANTIC, HVO)
"""Those that the truth run asks the kernel about."""

ALL_SCENES = (*SCENES, HOLDERS, DRIVERS, ISOLATED, CROWD)
