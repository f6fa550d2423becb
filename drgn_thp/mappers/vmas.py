# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which mapping of a process an address lies in, by the tree that the kernel itself looks into."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

from drgn import FaultError, Program

from ..errors import UnknownLayout
from ..filepath import FilePaths
from ..layout import find_type
from ..structs import U64, Struct, read_word

MAX_DEPTH = 64
_MAPLE_LEAF, _MAPLE_RANGE, _MAPLE_ARANGE = 1, 2, 3


@dataclass(frozen=True)
class Vma:
    """
    A ``struct vm_area_struct`` at ``address``. ``start`` and ``end`` are bytes of the process's addresses.

    :ivar offset: Into the file, in bytes, of the first page
    :ivar what: Path of the file; or ``[heap]``, ``[stack]``, ``anon``
    """

    address: int
    start: int
    end: int
    offset: int
    is_file: bool
    what: str


class Vmas:
    """Finds the VMAs of address spaces, each read once."""

    def __init__(self, prog: Program, page_size: int) -> None:
        self.prog = prog
        self.page_size = page_size
        self.unreadable = 0
        self.paths = FilePaths(prog)
        self._vma = Struct(prog, "struct vm_area_struct", ("vm_start", "vm_end", "vm_pgoff", "vm_file", "vm_mm"))
        # 524e00b36e8c ("mm: remove rb tree.") (in v6.1)
        self._maple = find_type(prog, "struct maple_tree") is not None
        tree = "mm_mt.ma_root" if self._maple else "mm_rb.rb_node"
        self._mm = Struct(prog, "struct mm_struct", (tree, "start_brk", "brk", "start_stack", "pgd"))
        self._tree = tree
        if self._maple:
            node = find_type(prog, "struct maple_node")
            if node is None:
                raise UnknownLayout("struct maple_node not found")
            self._range = Struct(prog, "struct maple_range_64", ("pivot", "slot"))
            self._arange = Struct(prog, "struct maple_arange_64", ("pivot", "slot"))
        else:
            self._rb = Struct(prog, "struct rb_node", ("rb_left", "rb_right"))
            self._rb_vma = Struct(prog, "struct vm_area_struct", ("vm_rb", "vm_start", "vm_end"))
        self._known: dict[int, tuple[list[int], list[Vma]]] = {}
        self._mms: dict[int, dict[str, int]] = {}

    def mm(self, mm: int) -> dict[str, int]:
        """
        Return members of a ``struct mm_struct``.

        :raises FaultError: if it cannot be read
        """
        if mm not in self._mms:
            self._mms[mm] = self._mm.read(mm)
        return self._mms[mm]

    def find(self, mm: int, address: int) -> Vma | None:
        """Return the VMA that an address lies in; None if there is none, or (counted) it cannot be read."""
        starts, vmas = self._known.setdefault(mm, ([], []))
        i = bisect_right(starts, address) - 1
        if i >= 0 and address < vmas[i].end:
            return vmas[i]
        try:
            values = self.mm(mm)
            found = (self._in_maple if self._maple else self._in_rbtree)(values[self._tree], address)
            vma = self._read(mm, found, values) if found else None
        except FaultError:
            self.unreadable += 1
            return None
        if vma is None or not vma.start <= address < vma.end:
            return None
        starts.insert(i + 1, vma.start)
        vmas.insert(i + 1, vma)
        return vma

    def _read(self, mm: int, address: int, values: dict[str, int]) -> Vma:
        vma = self._vma.read(address)
        start, end, file = vma["vm_start"], vma["vm_end"], vma["vm_file"]
        if vma["vm_mm"] != mm:
            raise FaultError("a VMA of another address space", address)
        if file:
            what = self.paths.path(file) or "file"
        elif start < values["brk"] and end > values["start_brk"]:
            what = "[heap]"
        elif start <= values["start_stack"] < end:
            what = "[stack]"
        else:
            what = "anon"
        return Vma(address, start, end, vma["vm_pgoff"] * self.page_size, bool(file), what)

    def _in_maple(self, entry: int, address: int) -> int:
        """Do what mas_walk() does."""
        if entry & 3 != 2 or entry <= 4096:
            return 0  # a root that is no node holds index 0 alone
        for _ in range(MAX_DEPTH):
            kind = entry >> 3 & 0xF
            if kind not in (_MAPLE_LEAF, _MAPLE_RANGE, _MAPLE_ARANGE):
                raise FaultError("unknown kind of maple tree node", entry & U64)
            layout = self._arange if kind == _MAPLE_ARANGE else self._range
            span = layout.read_span(entry & ~0xFF)
            pivots = memoryview(layout.bytes_of(span, "pivot")).cast("Q").tolist()
            slot = len(pivots)
            for i, pivot in enumerate(pivots):
                if address <= pivot or (i and not pivot):
                    slot = i
                    break
            slots = memoryview(layout.bytes_of(span, "slot")).cast("Q").tolist()
            entry = slots[slot]
            if kind == _MAPLE_LEAF:
                return 0 if entry & 3 or entry <= 4096 else int(entry)
        raise FaultError("endless maple tree", entry & U64)

    def _in_rbtree(self, node: int, address: int) -> int:
        for _ in range(MAX_DEPTH * 4):
            if not node:
                return 0
            vma = node - self._rb_vma.offset("vm_rb")
            values = self._rb_vma.read(vma)
            if values["vm_start"] <= address < values["vm_end"]:
                return vma
            member = "rb_left" if address < values["vm_start"] else "rb_right"
            node = read_word(self.prog, node + self._rb.offset(member))
        raise FaultError("endless tree of VMAs", node)
