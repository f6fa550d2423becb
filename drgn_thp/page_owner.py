# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Who allocated a page: what page_owner (CONFIG_PAGE_OWNER, and ``page_owner=on``) recorded of it.

That is where a page comes from, and not who holds it now. Of the kernel's own pages it is often all there is to know.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from drgn import FaultError, Object, Program

from .errors import UnknownLayout
from .layout import find_enumerator, find_type, member_offset
from .sections import Sections
from .structs import U64, Struct, read_word

MAX_FRAMES = 256
"""What CONFIG_STACKDEPOT_MAX_FRAMES may be at most; page_owner itself asks for 16 (PAGE_OWNER_STACK_DEPTH)."""
_INVALID = 1  # PAGE_EXT_INVALID, in the lowest bit of mem_section::page_ext, since v6.1
_ALIGN = 4  # DEPOT_STACK_ALIGN, a macro; the same since v4.6
# PAGE_EXT_OWNER and PAGE_EXT_OWNER_ALLOCATED: the page has been allocated since boot, and is allocated now.
_RECORDED = ("PAGE_EXT_OWNER", "PAGE_EXT_OWNER_ALLOCATED")


@dataclass(frozen=True)
class Allocation:
    """
    What was recorded of a page when it was allocated. Words are as the target has them: whoever shows them escapes.

    :ivar order: Of the whole allocation
    :ivar gfp_mask: As the kernel has it
    :ivar pid: Who allocated it, by the thread; None on kernels that do not record it, as v5.10
    :ivar tgid: The same, by the process
    :ivar comm: What that thread was called then; None likewise
    :ivar seconds: When, since boot; None likewise
    :ivar stack: Where in the kernel, innermost function first
    """

    order: int
    gfp_mask: int
    pid: int | None
    tgid: int | None
    comm: str | None
    seconds: float | None
    stack: tuple[str, ...]

    def record(self) -> dict[str, Any]:
        """Return it as a record."""
        return {**vars(self), "stack": list(self.stack)}


class PageOwner:
    """Reads what page_owner recorded in one target."""

    def __init__(self, prog: Program, sections: Sections) -> None:
        """
        :raises UnknownLayout: if the kernel has page_owner, but it cannot be understood
        """
        self._prog, self._table, self._pages = prog, sections.table, sections.pages_per_section
        section = find_type(prog, "struct mem_section")
        self._at = None
        if section is None or not section.has_member("page_ext") or not prog.symbols("page_owner_ops"):
            return  # CONFIG_PAGE_OWNER is not set
        self._at = section.member("page_ext").bit_offset // 8
        members, newer = ("order", "gfp_mask", "handle"), ("ts_nsec", "pid", "tgid", "comm")
        self._owner = Struct(prog, "struct page_owner", members, newer)
        self._stack = Struct(prog, "struct stack_record", ("size",))
        self._entries = member_offset(prog, ("struct stack_record",), "entries")
        bits = [find_enumerator(prog, name) for name in _RECORDED]
        if None in bits or find_type(prog, "union handle_parts") is None:
            raise UnknownLayout("page_owner's flags or handles of stacks are not described")
        self._recorded = sum(1 << (bit or 0) for bit in bits)
        try:
            operations = prog.symbols("page_owner_ops")[0].address
            self._offset = Struct(prog, "struct page_ext_operations", ("offset",)).read(operations)["offset"]
            self._size = read_word(prog, prog.symbol("page_ext_size").address)
        except (FaultError, LookupError) as error:
            raise UnknownLayout(f"page_owner: {error}") from None

    def of(self, pfn: int) -> Allocation | None:
        """
        Return what was recorded of a page; None if nothing was: it is switched off, or the page is free.

        :raises FaultError: if it cannot be read
        """
        address = self._page_ext(pfn)
        if not address or read_word(self._prog, address) & self._recorded != self._recorded:
            return None
        address = address + self._offset & U64
        span = self._owner.read_span(address)
        members = self._owner.decode(span)
        named = self._owner.has("comm")
        comm = self._owner.bytes_of(span, "comm").split(b"\0")[0] if named else b""
        return Allocation(
            members["order"],
            members["gfp_mask"],
            members["pid"] if named else None,
            members["tgid"] if named else None,
            comm.decode("utf-8", "backslashreplace") if named else None,
            members["ts_nsec"] / 1e9 if self._owner.has("ts_nsec") else None,
            self._trace(address + self._owner.offset("handle") & U64),
        )

    def _page_ext(self, pfn: int) -> int:
        """Return the address of a page's ``struct page_ext``; 0 if there is none."""
        number, table = pfn // self._pages, self._table
        root = number // table.per_root
        base = table.roots[root] if root < len(table.roots) else 0
        if self._at is None or not base:
            return 0
        # It is that of page frame 0, as if the section began there.
        first = read_word(self._prog, base + number % table.per_root * table.size + self._at)
        return 0 if not first or first & _INVALID else first + self._size * pfn & U64

    def _trace(self, handle: int) -> tuple[str, ...]:
        """Return the stack that a ``depot_stack_handle_t`` at some address is for; nothing if it is for none."""
        prog = self._prog
        parts = Object(prog, "union handle_parts", address=handle)
        # Pool 0 is number 1 since a6c1d9cb9a68 ("stackdepot: rename pool_index to pool_index_plus_1") (in v6.9).
        names = ("pool_index_plus_1", "pool_index", "slabindex")
        name = next((name for name in names if hasattr(parts, name)), None)
        if name is None:
            raise FaultError("handles of stacks are not understood", handle)
        index = int(getattr(parts, name).value_()) - (name == "pool_index_plus_1")
        pool = self._pool(index)
        if not pool:
            return ()
        record = pool + (int(parts.offset.value_()) << _ALIGN) & U64
        size = self._stack.read(record)["size"]
        if size > MAX_FRAMES:
            raise FaultError(f"a stack of {size} frames", record)
        entries = record + self._entries
        return tuple(self._name(read_word(prog, entries + 8 * i)) for i in range(size))

    def _pool(self, index: int) -> int:
        prog = self._prog
        # Called stack_slabs before 961c949b012f ("lib/stackdepot: rename slab to pool") (in v6.3).
        found = prog.symbols("stack_pools") or prog.symbols("stack_slabs")
        if index < 0 or not found:
            return 0
        base = int(found[0].address)
        if prog.symbols("stack_max_pools"):  # a pointer to an array, as long as the command line wants; v7.3 has it
            base = read_word(prog, base)
        return read_word(prog, base + 8 * index)

    def _name(self, pc: int) -> str:
        try:
            symbol = self._prog.symbol(pc)
        except LookupError:
            return f"{pc:#x}"
        return f"{symbol.name}+{pc - symbol.address:#x}"
