# SPDX-License-Identifier: LGPL-2.1-or-later
"""What lies at an address of the kernel's memory: which object of which slab cache, or what else."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from drgn import FaultError
from drgn.helpers.linux.mm import phys_to_virt
from drgn.helpers.linux.slab import get_slab_cache_aliases, slab_object_info

from ..context import Context
from ..holders.files import Files

FILES = ("filp", "bfilp")
# Everything leads to these, and they lead to everything.
HUBS = frozenset(
    (
        "inode_cache",
        "dentry",
        "radix_tree_node",
        "mm_struct",
        "vm_area_struct",
        "task_struct",
        "anon_vma",
        "anon_vma_chain",
        "kmem_cache",
        "kmem_cache_node",
        "cred",
        "cred_jar",
        "mnt_cache",
        "signal_cache",
        "sighand_cache",
        "files_cache",
        "task_group",
        "pid",
    )
)
MAX_ALIASES = 4
MAX_STACKS = 1 << 14


@dataclass(frozen=True)
class Thing:
    """
    A piece of the kernel's memory.

    :ivar cache: Slab cache, as it is named; empty of what is in none
    :ivar name: What to call it: caches may be merged, so their other names belong to it
    :ivar end: Whether it is not asked who points to it
    :ivar stack: ``struct task_struct`` whose stack it is
    """

    address: int
    size: int
    cache: str
    name: str
    end: bool = False
    stack: int = 0

    @property
    def is_file(self) -> bool:
        return self.cache in FILES


class Things:
    """Tells what lies where in one target."""

    def __init__(self, context: Context, files: Files) -> None:
        self.context = context
        self.files = files
        self._shift = context.kernel.page_shift
        self._base = int(phys_to_virt(context.prog, 0).value_())
        self._names: dict[int, str] = {}
        self._known: dict[int, Thing | None] = {}
        self._grids: dict[int, tuple[int, int]] = {}
        """Of pages of slabs that were met: an object, and how far it is to the next."""

    def at(self, physical: int) -> Thing | None:
        """Return what lies at a physical address; None of what is free."""
        address = self._base + physical
        stack = self._stacks.get(physical >> self._shift)
        if stack is not None:
            start = address >> self._shift << self._shift
            task = self.files.tasks.by_address[stack]
            return Thing(start, 1 << self._shift, "", f"stack of {task.pid} ({task.comm})", True, stack)
        grid = self._grids.get(physical >> self._shift)
        if grid is not None:  # another object of the same slab
            address = grid[0] + (address - grid[0]) // grid[1] * grid[1]
        if address not in self._known:
            self._known[address] = self._find(address, physical >> self._shift)
        thing = self._known[address]
        if thing is not None and not thing.address <= self._base + physical < thing.address + thing.size:
            return None  # between two objects
        return thing

    def _find(self, address: int, pfn: int) -> Thing | None:
        try:
            info = slab_object_info(self.context.prog, address)
            if info is not None:
                cache = info.slab_cache
                self._grids[pfn] = int(info.address), max(int(cache.size), 8)
                if not info.allocated:
                    return None
                name = cache.name.string_().decode("utf-8", "backslashreplace")
                size, words = int(cache.object_size), self._name(int(cache.value_()), name)
                return Thing(int(info.address), size, name, words, name in HUBS)
            f = self.context.read_folio(pfn)
        except (FaultError, LookupError, ValueError):
            return None
        start = self._base + (int(f.pfn[0]) << self._shift)
        pages = 1 << int(f.order[0])
        if f.reserved[0]:
            return Thing(start, pages << self._shift, "", "boot memory", True)
        return Thing(start, pages << self._shift, "", "a page of the kernel" if pages == 1 else f"{pages} pages")

    def offset(self, thing: Thing, physical: int) -> int:
        """Return where in a thing a physical address is."""
        return self._base + physical - thing.address

    def _name(self, address: int, name: str) -> str:
        if address not in self._names:
            others = [other for alias, other in self._aliases if other == name and alias != name]
            aliases = sorted(alias for alias, other in self._aliases if other == name and alias != name)
            more = f" or {len(others) - MAX_ALIASES} more" if len(others) > MAX_ALIASES else ""
            self._names[address] = " or ".join([name, *aliases[:MAX_ALIASES]]) + more
        return self._names[address]

    @cached_property
    def _aliases(self) -> list[tuple[str, str]]:
        try:
            return list(get_slab_cache_aliases(self.context.prog).items())
        except (FaultError, LookupError, ValueError):
            return []

    @cached_property
    def _stacks(self) -> dict[int, int]:
        """Tasks by the page frames of their stacks."""
        found: dict[int, int] = {}
        try:
            size = int(self.context.prog.type("union thread_union").size or 0) >> self._shift
        except LookupError:
            size = 4
        for task in list(self.files.tasks.by_address.values())[:MAX_STACKS]:
            for i in range(min(size, 16)):
                try:
                    found[self.context.virtual_to_pfn(task.stack + (i << self._shift))] = task.address
                except FaultError:
                    break
        return found
