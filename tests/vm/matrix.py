# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The kernels that the tests run on. A new one is one line in :data:`KERNELS`, or in :data:`IMAGE_ONLY` if what has to be
shown is that no debug package is needed.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Kernel:
    """
    One kernel, named by where to find the newest build of it.

    :ivar name: Upstream series, which is also the name in the cache and on the command line; a word may follow it.
    :ivar suites: Suites of the distribution to look into; the newest version that can really be fetched wins.
    :ivar lacks: Scenarios of the workload that this kernel cannot show. The guest must say the same, or the test fails.
    :ivar flavour: The smallest flavour whose debug package is not of the order of a gigabyte.
    :ivar module_symbols: Modules of the scene of holders that only their own debug information describes.
    :ivar image_only: Fetch the image of the series without debug information, even of a version that the suite has no
        metapackage for any more.
    """

    name: str
    suites: tuple[str, ...]
    lacks: frozenset[str] = frozenset()
    flavour: str = "cloud-amd64"
    module_symbols: tuple[str, ...] = ()
    image_only: bool = False

    @property
    def metapackages(self) -> tuple[str, str]:
        """Packages that depend on the newest image and on its debug information."""
        return f"linux-image-{self.flavour}", f"linux-image-{self.flavour}-dbg"


NO_MTHP = frozenset(
    {"mthp", "mthp_held", "mthp_forked", "mthp_cow", "mthp_hole", "mthp_hole_head"}
    | {f"mthp_partial_{size}" for size in ("16k", "32k", "64k", "128k", "256k", "512k", "1m")}
)
# Up to 6.15, FUSE writes copies of pages; since then, the pages themselves.
FUSE_COPIES = frozenset({"fuse_writeback"})
FUSE_ITSELF = frozenset({"fuse_copied"})
# Where broken memory is not handled.
NO_POISON = frozenset(
    {f"poison_{what}" for what in ("base", "forked", "left", "thp", "thp_held", "held", "hugetlb", "hugetlb_file")}
    | {"poison_clean", "poison_dirty", "poison_tmpfs", "soft_offline", "soft_offline_thp", "soft_offline_hugetlb"}
)

# Of io_uring: buffers cloned from ring to ring since 6.12, rings in memory of the process since 6.5.
NO_CLONES = frozenset({"uring_cloned", "uring_own_rings"})
# Reception into memory of the process, for no device.
NO_RECEPTION = frozenset({"uring_zcrx"})
# Memory of virtual machines that is no process's, and that a process may map all the same, since 6.18.
NO_GUEST_MEMFD = frozenset({"guest_memfd"})
# Huge pages that give struct pages back, since 5.14.
NO_HVO = frozenset({"hugetlb_lean", "hugetlb_lean_unmapped", "hugetlb_lean_boot"})
# ext4 with blocks larger than pages, since 6.19.
NO_MIN_ORDER = frozenset({"ext4_min_order"})
# Without a copy into a message, until 6.4; without one out of it, since 5.12.
NO_CORK = frozenset({"sockmap_corked"})
NO_SOCKMAP = frozenset({"sockmap_received"})
# Whose split of an entry that waits for a move takes references that nobody drops: 5.10 does.
NO_LOSS = frozenset({"thp_lost"})
# Built without.
NO_TLS = frozenset({"tls_sent", "tls_spliced"})
NO_CMA = frozenset({"cma_ballast", "cma_base", "cma_forked", "cma_mlocked", "cma_held", "cma_thp", "cma_thp_held"}) | {
    "cma_tmpfs",
    "cma_ext4",
    "cma_ext4_held",
}

KERNELS: tuple[Kernel, ...] = (
    Kernel(
        "5.10",
        ("bullseye",),
        lacks=NO_MTHP
        | NO_POISON
        | FUSE_COPIES
        | NO_CLONES
        | NO_RECEPTION
        | NO_GUEST_MEMFD
        | NO_CMA
        | NO_HVO
        | NO_MIN_ORDER
        | NO_SOCKMAP
        | NO_TLS
        | {"secretmem", "udmabuf", "dma_heap", "uring_provided"},
        # BTF of modules is newer.
        module_symbols=(
            *("vfio", "vfio_iommu_type1", "vmw_vmci", "orangefs", "rds", "fuse", "kvm", "kvm-amd"),
            *("dm-mod", "md-mod", "raid1"),
        ),
    ),
    Kernel(
        "6.1",
        ("bookworm", "bookworm-updates", "bookworm-security"),
        lacks=NO_MTHP
        | NO_POISON
        | FUSE_COPIES
        | NO_CLONES
        | NO_RECEPTION
        | NO_GUEST_MEMFD
        | NO_CMA
        | NO_MIN_ORDER
        | NO_LOSS
        | {"hugetlb_fixed", "udmabuf", "dma_heap"},
    ),
    Kernel(
        "6.12",
        ("trixie",),
        lacks=FUSE_COPIES | NO_RECEPTION | NO_GUEST_MEMFD | NO_CMA | NO_MIN_ORDER | NO_CORK | NO_LOSS,
    ),
    Kernel("7.3", ("trixie-backports",), lacks=FUSE_ITSELF | NO_CORK | NO_LOSS),
)

# Of kernels between the stable ones, backports keep images for long, and debug packages not at all. A series that is
# gone from there fails the tests: replace it by one that is there.
IMAGE_ONLY: tuple[Kernel, ...] = (
    Kernel("6.16", ("trixie-backports",), image_only=True),
    Kernel("6.18", ("trixie-backports",), image_only=True),
)

# Of the flavour that has drivers for everything: for what the smaller one lacks. Its debug package is too large, but it
# describes its modules itself.
WITH_DRIVERS: tuple[Kernel, ...] = (
    Kernel("6.1-all", ("bookworm", "bookworm-updates", "bookworm-security"), flavour="amd64", image_only=True),
    Kernel("6.12-all", ("trixie",), flavour="amd64", image_only=True),
    Kernel("7.3-all", ("trixie-backports",), flavour="amd64", image_only=True),
)


def kernel(name: str) -> Kernel:
    """Return the entry of that name, or say which names there are."""
    entries = KERNELS + IMAGE_ONLY + WITH_DRIVERS
    for entry in entries:
        if entry.name == name:
            return entry
    raise KeyError(f"no kernel {name!r} in the matrix; there are: {', '.join(k.name for k in entries)}")
