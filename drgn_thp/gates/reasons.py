# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every reason for refusal: its word, what it means, and what to do. ``docs/reasons.md`` is generated from here."""

from __future__ import annotations

from .model import Reason

BROKEN = Reason(
    "broken-compound",
    "The struct pages of this compound page contradict each other: no order fits the page frame.",
    "Memory corruption, or a dump taken while the folio was made or taken apart: look at the pages around it.",
)
RESERVED = Reason(
    "reserved",
    "PG_reserved: boot-time memory, a hole, or memory that the kernel keeps for itself; never migrated, in any zone.",
    "Nothing frees it while the system runs. Boot with movable_node or use only hot-plugged memory for unplug.",
    only_counted=True,
)
CMA_PAGEBLOCK = Reason(
    "cma-pageblock",
    "The page lies in a pageblock of a CMA area, which only CMA itself may isolate.",
    "Memory with a CMA area cannot be offlined: place the area elsewhere (cma=SIZE@START) at boot.",
)
PAGEBLOCK_ISOLATED = Reason(
    "pageblock-isolated",
    "The pageblock is isolated already: somebody else is allocating or offlining this range right now.",
    "Try again when the other one has finished.",
)
SLAB = Reason(
    "slab",
    "Kernel heap (slab or large kmalloc): kernel pointers point into it, so it cannot move.",
    "Shrink caches (vm.drop_caches=2) and hope; keep memory to be unplugged in ZONE_MOVABLE (online_movable).",
    only_counted=True,
)
PAGE_TABLE = Reason(
    "page-table",
    "A page table of some process: it cannot move.",
    "It goes when the process exits or unmaps; keep memory to be unplugged in ZONE_MOVABLE (online_movable).",
    only_counted=True,
)
PAGE_OFFLINE = Reason(
    "page-offline",
    "PageOffline: a driver (balloon without compaction, Hyper-V, Xen) has taken the page out of use and keeps it.",
    "Deflate the balloon, or unload the driver that holds it.",
)
GUARD_PAGE = Reason(
    "guard-page",
    "A guard page of debug_pagealloc.",
    "Boot without debug_guardpage_minorder.",
    only_counted=True,
)
KERNEL_PAGE = Reason(
    "kernel-page",
    "The kernel or a driver allocated the page for itself (stack, vmalloc, buffer, pipe, socket ...): it cannot move.",
    "Find its owner (page_owner, drgn's search_memory); keep memory to be unplugged in ZONE_MOVABLE.",
    only_counted=True,
)
ZERO_PAGE = Reason(
    "zero-page",
    "The page of zeros that all processes share.",
    "Nothing: it needs no migration; it cannot be moved by request either.",
)
HWPOISON = Reason(
    "hwpoison",
    "The memory is broken (hardware error): its contents must not be copied.",
    "Free the folio by ending its owner; the kernel then takes the bad page out of use.",
)
FROZEN = Reason(
    "frozen",
    "Somebody has frozen the folio's reference count at this moment: a migration, split or truncation is under way.",
    "Try again.",
)
ISOLATED = Reason(
    "isolated",
    "Reclaim, compaction or another migration has taken the folio off its LRU list, and holds one reference.",
    "Try again; if it stays, find the task that hangs with the folio on its list.",
)
IN_TRANSIT = Reason(
    "in-transit",
    "Movable memory that is not mapped or filed yet, or no longer: being faulted in, read, copied, or freed.",
    "Try again; if it stays, a driver has taken movable memory for itself.",
)
LRU_BATCH = Reason(
    "lru-batch",
    "The folio sits in a per-CPU batch, which holds a reference, and this path does not drain it.",
    "Try again; any of: echo 1 > /proc/sys/vm/compact_memory, or an exit or munmap on that CPU, drains the batch.",
)
NOT_ON_LRU = Reason(
    "not-on-lru",
    "The folio belongs to a process or file, but is on no LRU list, so that nothing can isolate it.",
    "A driver or filesystem keeps it off the lists (perf and packet rings, for example): close the file that owns it.",
)
MOVABLE_OPS_BUSY = Reason(
    "movable-ops-busy",
    "A driver's movable page (balloon, zsmalloc) that is isolated, locked, or being released right now.",
    "Try again.",
)
COMPOUND_ORDER = Reason(
    "compound-order",
    "Compaction leaves folios of this size alone: moving them gains no contiguous memory.",
    "Nothing: not an obstacle. To move it, offline the block, or migrate the process (migratepages).",
)
HUGETLB_SKIPPED = Reason(
    "hugetlb-skipped",
    "Compaction never moves hugetlb pages, and nothing splits them.",
    "Nothing: not an obstacle.",
)
HUGETLB_CONTIG = Reason(
    "hugetlb-contig",
    "alloc_contig_range() of this kernel cannot move hugetlb pages, free or used: it learned that in v5.13.",
    "Shrink the hugetlb pool (vm.nr_hugepages), free its pages, or offline the block instead.",
)
HUGETLB_UNSUPPORTED = Reason(
    "hugetlb-not-migratable",
    "Huge pages of this size cannot be migrated on this architecture.",
    "Release them from the hugetlb pool.",
)
HUGETLB_GIGANTIC = Reason(
    "hugetlb-gigantic",
    "A gigantic page, which the buddy allocator cannot replace: alloc_contig_range() gives up with -ENOMEM; others "
    "need a free one on another node.",
    "Release it, or make another node's pool of that size larger first.",
)
HUGETLB_BUSY = Reason(
    "hugetlb-busy",
    "A hugetlb page that is in use, but not marked migratable: being faulted in, freed, or isolated by somebody.",
    "Try again.",
)
HUGETLB_HWPOISON = Reason(
    "hugetlb-hwpoison",
    "A hugetlb page in use of which some memory is broken (hardware error): it was taken out of migration for good.",
    "Nothing gives this memory back while the system runs, not even the end of its owner.",
)
HUGETLB_NO_TARGET = Reason(
    "hugetlb-no-target",
    "No free huge page, and no free memory of that size, to move this hugetlb page to, or less than all need.",
    "Add huge pages on another node (vm.nr_hugepages), or free memory.",
)
HUGETLB_RESERVED = Reason(
    "hugetlb-reserved",
    "A free hugetlb page that is promised to somebody: dissolving it would break the reservation.",
    "Add huge pages on another node (vm.nr_hugepages), or end the process that reserved them.",
)
HUGETLB_VMEMMAP = Reason(
    "hugetlb-vmemmap",
    "A hugetlb page whose struct pages were given back (hugetlb_free_vmemmap=on), on a node without memory for the "
    "kernel: it cannot be taken apart, as memory for its struct pages is wanted from that node. What is in it may be "
    "moved to a free one, but its memory is not given back. Fixed by 2eaa6c2abb9d (in v6.7).",
    "Set vm.hugetlb_optimize_vmemmap=0 before huge pages are added to a node with movable memory only; once they are "
    "there, bring memory of the node online as the kernel's (online_kernel), or reboot.",
)
HUGETLB_VMEMMAP_BUG = Reason(
    "hugetlb-vmemmap-bug",
    "A hugetlb page whose struct pages were given back (hugetlb_free_vmemmap=on). When this kernel takes it apart, it "
    "makes them anew as copies of the first ones, finds heads where there are none (BUG: Bad page state), and does not "
    "end.",
    "Kernel bug since 6.12.114, which took a fix that is right for v7.1 and later only: do not free such pages, but "
    "reboot without hugetlb_free_vmemmap=on. vm.hugetlb_optimize_vmemmap=0 spares huge pages that are made later.",
)
RACY_PIN_CHECK = Reason(
    "racy-pin-check",
    "Refused wrongly: nobody holds this THP; the kernel compares its references with the map count of one page only.",
    "Kernel bug, fixed by 829ae0f81ce0 (in v6.1): update; or split or swap out the THP, or offline the whole block.",
)
UNEVICTABLE = Reason(
    "unevictable",
    "The folio is unevictable (mlocked) and vm.compact_unevictable_allowed is 0.",
    "Set vm.compact_unevictable_allowed to 1, or munlock() it.",
)
INACCESSIBLE = Reason(
    "inaccessible",
    "Memory of a confidential guest (guest_memfd): the host cannot copy it.",
    "Shut down the guest.",
)
SECRETMEM = Reason(
    "secretmem",
    "Secret memory (memfd_secret): taken out of the kernel's direct map, it cannot be copied.",
    "End the process that owns it.",
)
LOCKED = Reason(
    "locked",
    "The folio is locked: I/O or another operation on it is under way.",
    "Try again; if it stays, find the task that sleeps with the lock (blocked tasks: sysrq-w).",
)
WRITEBACK = Reason(
    "writeback",
    "The folio is being written back; it moves when the write has finished.",
    "Wait; if it stays, the storage below does not answer.",
)
NO_TARGET = Reason(
    "no-target",
    "It may go to another node only, as there is one; and all memory of the others is ZONE_MOVABLE, where small folios "
    "of a lower zone may not go.",
    "Bring memory of another node online as the kernel's (online_kernel); or take that of all others offline first.",
    only_counted=True,
)
TRUNCATED = Reason(
    "truncated",
    "The folio was truncated from its file, but something still holds it.",
    "Try again.",
)
KSM_ALONE = Reason(
    "ksm-alone",
    "A page that KSM began to merge and gave up on: the kernel can no longer find out who maps it.",
    "echo 2 > /sys/kernel/mm/ksm/run, which makes all pages of KSM ordinary ones again; or end the process.",
)
KSM_LOST = Reason(
    "ksm-lost",
    "A page of KSM is mapped where KSM does not know of it, as after it was swapped out and in: it stays mapped there.",
    "echo 1 > /sys/kernel/mm/ksm/run and wait until full_scans has grown by two; or echo 2 to have KSM undo it all.",
)
NO_MIGRATE_OP_DIRTY = Reason(
    "no-migrate-op-dirty",
    "The filesystem has no migrate operation and the folio is dirty: it would have to be written out first.",
    "sync; on ramfs (which has nowhere to write to) delete the file, or use tmpfs instead.",
)
BTREE_DIRTY = Reason(
    "btree-dirty",
    "Dirty metadata of btrfs moves only after its transaction has been committed.",
    "sync.",
)
PRIVATE_BUSY = Reason(
    "private-busy",
    "The filesystem cannot let go of its private data of this folio: dirty, under I/O, or part of a request.",
    "sync, and try again.",
)
BUFFER_BUSY = Reason(
    "buffer-busy",
    "A block-device page whose buffers are in use: a superblock, group descriptor or journal of a mounted filesystem.",
    "Unmount the filesystem on that device.",
)
DMA_PINNED = Reason(
    "dma-pinned",
    "Pinned for DMA (FOLL_PIN): a device may read or write it at any time.",
    "End the I/O or registration: vfio, RDMA, io_uring fixed buffers, AF_XDP, direct I/O in flight.",
)
EXTRA_REFERENCE = Reason(
    "extra-reference",
    "Somebody holds references that no part of mm explains: vmsplice, socket, get_user_pages(), I/O in flight.",
    "Find the holder and make it let go: read the pipe empty, close the socket or ring, wait for the I/O.",
)
MISSING_REFERENCE = Reason(
    "missing-reference",
    "The folio has fewer references than its mappings and caches should hold.",
    "A dump taken in the middle of a change, or a reference count bug: compare with another dump.",
)
MAPPED_SHARED = Reason(
    "mapped-shared",
    "More than one process maps the folio, and the caller did not ask for MPOL_MF_MOVE_ALL.",
    "Use MPOL_MF_MOVE_ALL (needs CAP_SYS_NICE), or migratepages as root.",
)
UNMAPPED_ANON = Reason(
    "unmapped-anon",
    "No page table maps this anonymous folio any more, so that it cannot be locked against being mapped while split.",
    "Try again: it is about to be freed, or is swap cache that reclaim will free.",
)
MIN_ORDER = Reason(
    "min-order",
    "The filesystem needs folios of at least this size (block size larger than a page).",
    "Nothing: it cannot be split to single pages.",
)
