# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What walkers stand on: the target's types, symbols and memory, with a bound on all that is followed.

Nothing read from a target is believed. A list is walked to a limit and never twice through the same node; a length is
checked before it is read; and a walker that takes too long is stopped, wherever it is, at its next step.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from itertools import islice
from typing import Any

import numpy
from drgn import FaultError, Object, PlatformFlags, Program, Type, sizeof
from drgn.helpers.linux.module import for_each_module

from ..context import Context
from ..folios import Column
from ..suspects import Suspects
from ..target.modules import MAX_MODULES, module_addresses, module_struct
from .files import Files
from .model import Damaged, Outcome

MAX_SECONDS = 60.0
"""For one walker."""
MAX_LENGTH = 1 << 20
"""Elements of a list or array, unless the walker says otherwise."""
MAX_READ = 1 << 26
"""Bytes read at a time."""


class Ground:
    """One target, for walkers."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.prog: Program = context.prog
        self.outcome = Outcome("")
        self.wanted: Suspects | None = None
        """The folios that are asked about, for who would else have to look through far too much."""
        self.shared: dict[str, Any] = {}
        """What walkers have in common and read once, by name."""
        self._deadline = float("inf")
        self._offsets: dict[tuple[str, str], int] = {}
        self._types: dict[str, Type | None] = {}
        self._names: dict[str, dict[str, int]] = {}
        little = self.prog.platform is None or self.prog.platform.flags & PlatformFlags.IS_LITTLE_ENDIAN
        self.byteorder = "<" if little else ">"

    def begin(self, outcome: Outcome, seconds: float = MAX_SECONDS) -> None:
        """Count what follows as the doing of one walker, and its time from now."""
        self.outcome = outcome
        self._deadline = time.monotonic() + seconds

    def step(self) -> None:
        """
        Call this in every loop that the methods below do not run.

        :raises Damaged: if the walker has had its time
        """
        if time.monotonic() > self._deadline:
            raise Damaged("it took too long")

    @contextmanager
    def part(self, what: str) -> Iterator[None]:
        """Do something with one object: if that cannot be read or is damaged, it is counted, and the walker goes on."""
        self.step()
        try:
            yield
        except (FaultError, Damaged) as error:
            self.step()  # having had one's time is not a fault of this object
            self.outcome.failures += 1
            self.outcome.first_failure = self.outcome.first_failure or f"{what}: {error}"

    @cached_property
    def files(self) -> Files:
        """Every open file, and who has it open."""
        return Files(self.context)

    # Types and symbols.

    def type(self, name: str) -> Type:
        """
        Return a type of the kernel or (structures only) of a module: ``"struct file"``.

        :raises LookupError: if nothing describes it
        """
        found = self._find_type(name)
        if found is None:
            raise LookupError(f"nothing describes {name}")
        return found

    def _find_type(self, name: str) -> Type | None:
        if name not in self._types:
            try:
                found: Type | None = self.prog.type(name)
            except LookupError:
                word, _, tag = name.partition(" ")
                found = module_struct(self.prog, tag) if word == "struct" and tag else None
            if found is not None and name.startswith("struct ") and not found.is_complete():
                found = None
            self._types[name] = found
        return self._types[name]

    def choose(self, name: str, member: str, filename: str) -> None:
        """Of several structures of one name take that which has a member, or else that of a file, as DWARF knows it."""
        if not self.has(name, member):
            with suppress(LookupError):
                self._types[name] = self.prog.type(name, filename)
                self._offsets = {key: offset for key, offset in self._offsets.items() if key[0] != name}

    def has(self, type_: str, member: str = "") -> bool:
        """Return whether there is such a type, with such a member (``"a.b"`` for one inside another)."""
        found = self._find_type(type_)
        if found is None or not member:
            return found is not None
        try:
            self.offset(type_, member)
        except LookupError:
            return False
        return True

    def offset(self, type_: str, member: str) -> int:
        """
        Return where a member lies, in bytes; ``"a.b"`` for one inside another.

        :raises LookupError: if there is none
        """
        key = (type_, member)
        if key not in self._offsets:
            offset, inside = 0, self.type(type_)
            for name in member.split("."):
                found = inside.unaliased().member(name)
                offset += found.bit_offset // 8
                inside = found.type
            self._offsets[key] = offset
        return self._offsets[key]

    def size(self, type_: str) -> int:
        """Return the size of a type in bytes."""
        return int(self.type(type_).size or 0)

    def object(self, type_: str, address: int) -> Object:
        """Return what lies at an address; reading its members may raise FaultError."""
        return Object(self.prog, self.type(type_), address=address)

    def symbol(self, name: str, module: str = "") -> int | None:
        """Return the address of a variable or function of the kernel, or else of a module; None if there is none."""
        found = self.prog.symbols(name)
        if found:
            return int(found[0].address)
        if module and module not in self._names:
            self._names[module] = module_addresses(self.prog, module)
        return self._names[module].get(name) if module else None

    @cached_property
    def modules(self) -> frozenset[str]:
        """
        The names of the modules that are loaded.

        :raises FaultError: if they cannot be read
        """
        found = islice(for_each_module(self.prog), MAX_MODULES)
        return frozenset(module.name.string_().decode("utf-8", "backslashreplace") for module in found)

    # Memory.

    def read(self, address: int, size: int) -> bytes:
        """
        Read memory.

        :raises FaultError: if it cannot be read
        :raises Damaged: if it is absurdly much
        """
        if not 0 <= size <= MAX_READ:
            raise Damaged(f"{size} bytes at {address:#x} cannot be right")
        self.step()
        data: bytes = self.prog.read(address, size) if size else b""
        return data

    def array(self, address: int, count: int, dtype: str = "u8") -> Column:
        """Read an array of integers: ``dtype`` as in numpy, without byte order. It raises as :meth:`read` does."""
        kind = numpy.dtype(self.byteorder + dtype)
        return numpy.frombuffer(self.read(address, count * kind.itemsize), kind)

    def words(self, address: int, count: int) -> Column:
        """Read an array of pointers. It raises as :meth:`read` does."""
        return self.array(address, count).astype(numpy.uint64)

    def word(self, address: int) -> int:
        """Read a pointer. It raises as :meth:`read` does."""
        self.step()
        return int(self.prog.read_u64(address))

    def pointer(self, type_: str, address: int, member: str) -> int:
        """Read a member that is a pointer (or any 64 bits) of a structure. It raises as :meth:`read` does."""
        return self.word(address + self.offset(type_, member))

    def uint(self, type_: str, address: int, member: str) -> int:
        """Read a member that is an unsigned integer of any width. It raises as :meth:`read` does."""
        inside = self.type(type_)
        for name in member.split("."):
            inside = inside.unaliased().member(name).type
        size = sizeof(inside)
        order = "little" if self.byteorder == "<" else "big"
        return int.from_bytes(self.read(address + self.offset(type_, member), size), order)  # type: ignore[arg-type]

    def string(self, address: int, size: int = 64) -> str:
        """Return what is there up to a zero byte. It raises as :meth:`read` does."""
        self.step()
        data: bytes = self.prog.read_c_string(address, max_size=size)
        return data.decode("utf-8", "backslashreplace")

    def pfns(self, pages: Any) -> Column:
        """
        Return the page frames of ``struct page`` addresses. What is no such address is counted as a failure.

        NULL is nobody's page, and left out.
        """
        layout = self.context.layout
        pages = numpy.asarray(pages, numpy.uint64)
        pages = pages[pages != 0]
        offset = (pages - numpy.uint64(layout.vmemmap)).astype(numpy.uint64)
        size = numpy.uint64(layout.page_struct_size)
        result = (offset // size).astype(numpy.int64)
        good = (offset % size == 0) & (pages >= numpy.uint64(layout.vmemmap)) & (result < self.context.end_pfn)
        wild = int(len(pages) - numpy.count_nonzero(good))
        if wild:
            self.outcome.failures += wild
            first = int(pages[numpy.flatnonzero(~good)[0]])
            self.outcome.first_failure = self.outcome.first_failure or f"{first:#x} is no struct page"
        return result[good]

    def page_array(self, address: int, count: int, limit: int) -> Column:
        """
        Return the page frames of an array of ``struct page`` addresses, as :meth:`pfns` does.

        :raises FaultError: if it cannot be read
        :raises Damaged: if there are more than ``limit``
        """
        if count > limit:
            raise Damaged(f"{count} pages")
        return self.pfns(self.words(address, count))

    # What is linked.

    def chain(self, first: int, following: Callable[[int], int], limit: int = MAX_LENGTH) -> Iterator[int]:
        """
        Yield addresses until one is 0.

        :param following: Returns the address behind one
        :raises Damaged: if there is no end
        """
        seen: set[int] = set()
        while first:
            if first in seen or len(seen) >= limit:
                raise Damaged(f"a list does not end ({len(seen)} entries)")
            seen.add(first)
            self.step()
            yield first
            first = following(first)

    def entries(self, head: int, offset: int = 0, limit: int = MAX_LENGTH) -> Iterator[int]:
        """
        Yield the structures of a ``struct list_head``.

        :param offset: Where in them the member is by which they are linked
        :raises Damaged: if there is no end
        """

        def following(node: int) -> int:
            behind = self.word(node)
            return 0 if behind == head else behind

        for node in self.chain(following(head), following, limit):
            yield node - offset

    def tree(self, root: int, offset: int = 0, limit: int = MAX_LENGTH) -> Iterator[int]:
        """
        Yield the structures of a red-black tree, in no order.

        :param root: Address of the ``struct rb_root`` (or ``rb_root_cached``)
        :param offset: Where in them the ``struct rb_node`` is
        :raises Damaged: if it is no tree
        """
        left, right = self.offset("struct rb_node", "rb_left"), self.offset("struct rb_node", "rb_right")
        pending, seen = [self.word(root)], set[int]()
        while pending:
            node = pending.pop()
            if not node:
                continue
            if node in seen or len(seen) >= limit:
                raise Damaged(f"a tree does not end ({len(seen)} nodes)")
            seen.add(node)
            yield node - offset
            pending += [self.word(node + right), self.word(node + left)]

    def xarray(self, address: int, limit: int = MAX_LENGTH, values: bool = False) -> Iterator[tuple[int, int]]:
        """
        Yield index and entry of all pointers in a ``struct xarray`` (or ``idr``'s), or of all value entries instead.

        :raises Damaged: if it is none
        """
        slots, shift = self.offset("struct xa_node", "slots"), self.offset("struct xa_node", "shift")
        width = int(self.type("struct xa_node").member("slots").type.length or 0)
        pending = [(self.pointer("struct xarray", address, "xa_head"), 0, 1 << 8)]
        seen: set[int] = set()
        found = 0
        while pending:
            entry, index, above = pending.pop()
            if entry & 3 == 2 and entry > 4096:
                node = entry - 2
                own = self.read(node + shift, 1)[0]
                if node in seen or len(seen) >= limit or own >= above or own > 60:
                    raise Damaged("an xarray is no tree")
                seen.add(node)
                for i, slot in reversed(list(enumerate(self.words(node + slots, width).tolist()))):
                    if slot:
                        pending.append((slot, index + (i << own), own))
            elif entry & 1 if values else entry and not entry & 3:
                found += 1
                if found > limit:
                    raise Damaged(f"an xarray has more than {limit} entries")
                self.step()
                yield index, entry

    def xarray_entry(self, address: int, index: int) -> int:
        """
        Return what a ``struct xarray`` has at an index; 0 if that is nothing, or no pointer.

        :raises Damaged: if it is none
        """
        slots, shift = self.offset("struct xa_node", "slots"), self.offset("struct xa_node", "shift")
        width = int(self.type("struct xa_node").member("slots").type.length or 0)
        entry, above = self.pointer("struct xarray", address, "xa_head"), 1 << 8
        if entry & 3 != 2 or entry <= 4096:  # no node: only what has index 0
            return 0 if index or entry & 3 else entry
        while entry & 3 == 2 and entry > 4096:
            node = entry - 2
            own = self.read(node + shift, 1)[0]
            if own >= above or own > 60 or not width:
                raise Damaged("an xarray is no tree")
            if above == 1 << 8 and index >> own >= width:
                return 0
            above = own
            entry = self.word(node + slots + 8 * ((index >> own) % width))
            if entry & 3 == 2 and entry < 4 * width:  # a sibling of what is there under several indices
                entry = self.word(node + slots + 8 * (entry >> 2))
        return 0 if entry & 3 else entry
