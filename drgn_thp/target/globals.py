# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The types of global variables, which BTF does not have (only those of per-CPU ones).

Of the thousands of a kernel, these are the ones that drgn_thp and the helpers of drgn that it uses ask for. Where
kernels differ, a witness in the target decides; a type that merely can be parsed would read garbage without an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from drgn import FaultError, Object, Program, Type, TypeKind, sizeof

from .vmcoreinfo import read_vmcoreinfo


@dataclass
class Witness:
    """What may be asked of a target to tell kernels apart."""

    prog: Program
    vmcoreinfo: dict[str, str] = field(default_factory=dict)

    def has_type(self, name: str) -> bool:
        try:
            self.prog.type(name)
        except LookupError:
            return False
        return True

    def has_member(self, type_: str, member: str) -> bool:
        try:
            return bool(self.prog.type(type_).has_member(member))
        except LookupError:
            return False

    def has_symbol(self, name: str) -> bool:
        try:
            self.prog.symbol(name)
        except LookupError:
            return False
        return True

    def length(self, name: str) -> int | None:
        """Return the length that VMCOREINFO gives for an array, or the value of an enumerator."""
        said = self.vmcoreinfo.get(f"LENGTH({name})", "")
        if re.fullmatch("[0-9]{1,7}", said):
            return int(said)
        try:
            return int(self.prog.constant(name).value_())
        except LookupError:
            return None

    def mem_section_is_pointer(self) -> bool:
        """VMCOREINFO has the value of the expression mem_section: of an array that is its own address."""
        try:
            address = self.prog.symbol("mem_section").address
            value = int(self.vmcoreinfo["SYMBOL(mem_section)"], 16)
            return value not in (0, address) and bool(self.prog.read_u64(address) == value)
        except (LookupError, ValueError, FaultError, OSError):
            return False


Choice = tuple[str, Callable[[Witness], bool]]
# In brackets: an enumerator, the name of the variable itself (its LENGTH in VMCOREINFO), or nothing where neither is
# there; nobody then asks for the length.
GLOBALS: Mapping[str, str | tuple[Choice, ...]] = {
    # Memory map, nodes and zones
    "mem_section": (("struct mem_section **", Witness.mem_section_is_pointer),),
    "__highest_present_section_nr": "unsigned long",
    "vmemmap_base": "unsigned long",
    "page_offset_base": "unsigned long",
    "vmalloc_base": "unsigned long",
    "high_memory": "void *",
    "max_pfn": "unsigned long",
    "min_low_pfn": "unsigned long",
    "max_low_pfn": "unsigned long",
    "node_data": "struct pglist_data *[node_data]",
    "contig_page_data": "struct pglist_data",
    "node_states": "nodemask_t [NR_NODE_STATES]",
    "nr_node_ids": "unsigned int",
    "nr_online_nodes": "unsigned int",
    "memory_subsys": "struct bus_type",
    "memory_blocks": "struct xarray",
    "sections_per_block": "int",
    "mhp_default_online_type": "int",
    "movable_node_enabled": "bool",
    "memblock": "struct memblock",
    "iomem_resource": "struct resource",
    "pgmap_array": "struct xarray",
    "pageblock_order": "unsigned int",
    "num_poisoned_pages": "atomic_long_t",
    "_totalram_pages": "atomic_long_t",
    "vm_zone_stat": "atomic_long_t [NR_VM_ZONE_STAT_ITEMS]",
    "vm_node_stat": "atomic_long_t [NR_VM_NODE_STAT_ITEMS]",
    "vm_numa_event": "atomic_long_t [NR_VM_NUMA_EVENT_ITEMS]",
    "vm_committed_as": "struct percpu_counter",
    "sysctl_overcommit_memory": "int",
    "sysctl_overcommit_ratio": "int",
    "sysctl_overcommit_kbytes": "unsigned long",
    # Special pages
    "zero_pfn": "unsigned long",
    "zero_page_pfn": "unsigned long",
    "__zero_page": "struct page *",
    "empty_zero_page": "unsigned char []",
    "huge_zero_page": "struct page *",
    "huge_zero_folio": "struct folio *",
    "huge_zero_pfn": "unsigned long",
    # Huge pages
    "hstates": "struct hstate []",
    "hugetlb_max_hstate": "int",
    "default_hstate_idx": "unsigned int",
    "hugetlb_cma": "struct cma *[]",
    "transparent_hugepage_flags": "unsigned long",
    "huge_anon_orders_always": "unsigned long",
    "huge_anon_orders_madvise": "unsigned long",
    "huge_anon_orders_inherit": "unsigned long",
    "deferred_split_lru": "struct list_lru",
    # Migration, reclaim, compaction
    "lru_disable_count": "atomic_t",
    "sysctl_compact_unevictable_allowed": "int",
    "cma_areas": "struct cma []",
    "cma_area_count": "unsigned int",
    "offline_movable_ops": "const struct movable_operations *",
    "zsmalloc_movable_ops": "const struct movable_operations *",
    "root_mem_cgroup": "struct mem_cgroup *",
    "cgrp_dfl_root": "struct cgroup_root",
    # Swap
    "nr_swapfiles": "unsigned int",
    "swap_info": "struct swap_info_struct *[]",
    "swapper_spaces": "struct address_space *[]",
    "nr_swapper_spaces": "unsigned int []",
    "swap_space": "struct address_space",
    "nr_swap_pages": "atomic_long_t",
    "total_swap_pages": "long",
    # Page extensions and who allocated
    "page_ext_size": "unsigned long",
    "page_owner_inited": "struct static_key_false",
    "page_owner_ops": "struct page_ext_operations",
    "page_idle_ops": "struct page_ext_operations",
    "page_table_check_ops": "struct page_ext_operations",
    "stack_slabs": "void *[]",
    "stack_pools": (
        # An array of fixed length until its length became a parameter of the kernel, stack_depot_max_pools=.
        ("void **", lambda w: w.has_symbol("stack_max_pools")),
        ("void *[]", lambda w: not w.has_symbol("stack_max_pools")),
    ),
    # Slab and vmalloc
    "slab_caches": "struct list_head",
    "slab_kset": "struct kset *",
    "vmap_area_list": "struct list_head",
    "vmap_area_root": "struct rb_root",
    "vmap_nodes": "struct vmap_node *",
    "nr_vmap_nodes": "unsigned int",
    "vmap_zone_size": "unsigned int",
    "single": "struct vmap_node",
    # CPUs, tasks, modules
    "__per_cpu_offset": "unsigned long []",
    "__cpu_possible_mask": "struct cpumask",
    "__cpu_present_mask": "struct cpumask",
    "__cpu_online_mask": "struct cpumask",
    "__cpu_active_mask": "struct cpumask",
    "nr_cpu_ids": "unsigned int",
    "jiffies_64": "u64",
    "init_task": "struct task_struct",
    "init_mm": "struct mm_struct",
    "init_pid_ns": "struct pid_namespace",
    "init_user_ns": "struct user_namespace",
    "init_uts_ns": "struct uts_namespace",
    "init_ipc_ns": "struct ipc_namespace",
    "init_nsproxy": "struct nsproxy",
    "root_task_group": "struct task_group",
    "task_struct_cachep": "struct kmem_cache *",
    "modules": "struct list_head",
    "mod_tree": "struct mod_tree_root",
    "btf_modules": "struct list_head",
    "panic_cpu": "atomic_t",
    "crashing_cpu": "int",
    "saved_command_line": "char *",
    "linux_banner": "const char []",
    "tainted_mask": "unsigned long",
    "prb": "struct printk_ringbuffer *",
    # Files and file systems
    "super_blocks": "struct list_head",
    "blockdev_superblock": "struct super_block *",
    "file_systems": (
        ("struct file_system_type *", lambda w: w.has_member("struct file_system_type", "next")),
        ("struct hlist_head", lambda w: w.has_member("struct file_system_type", "list")),
    ),
    "init_fs": "struct fs_struct",
    "userspace_init_fs": "struct fs_struct *",
    "pipe_mnt": "struct vfsmount *",
    "sock_mnt": "struct vfsmount *",
    "shm_mnt": "struct vfsmount *",
    "secretmem_mnt": "struct vfsmount *",
    "anon_inode_mnt": "struct vfsmount *",
    "anon_inode_inode": "struct inode *",
    "shmem_swaplist": "struct list_head",
    "init_net": "struct net",
    "net_namespace_list": "struct list_head",
    # Devices
    "block_class": "struct class",
    "bus_kset": "struct kset *",
    "class_kset": "struct kset *",
    "sysfs_root_kn": "struct kernfs_node *",
}


class Globals:
    """Finds the variables of :data:`GLOBALS` in one program."""

    def __init__(self, prog: Program) -> None:
        self._witness = Witness(prog, read_vmcoreinfo(prog))

    def find(self, name: str) -> Object | None:
        """
        Return a variable, or None if it is not in the table, this kernel has none, or no witness knows its type.

        :raises LookupError: if several symbols have this name
        """
        declared = GLOBALS.get(name)
        if declared is None:
            return None
        prog = self._witness.prog
        symbols = prog.symbols(name)
        if not symbols:
            return None
        if len({symbol.address for symbol in symbols}) > 1:
            raise LookupError(f"{len(symbols)} symbols are called {name}")
        type_ = self._type(name, declared)
        if type_ is None:
            return None
        # A symbol reaches to the next one, so it can be too long, but not too short unless the next is an alias.
        if type_.kind != TypeKind.ARRAY and 0 < symbols[0].size < sizeof(type_):
            return None
        return Object(prog, type_, address=symbols[0].address)

    def _type(self, name: str, declared: str | tuple[Choice, ...]) -> Type | None:
        if isinstance(declared, str):
            chosen = declared
        else:
            witnessed = [text for text, holds in declared if holds(self._witness)]
            if len(witnessed) != 1:
                return None
            chosen = witnessed[0]
        match = re.search(r"\[(\w+)\]$", chosen)
        if match is not None:
            length = self._witness.length(match[1])
            chosen = chosen[: match.start()] + ("[]" if length is None else f"[{length}]")
        try:
            type_ = self._witness.prog.type(chosen)
            sizeof(type_.type if type_.kind == TypeKind.ARRAY else type_)
        except (LookupError, TypeError):  # unknown, or only declared
            return None
        return type_
