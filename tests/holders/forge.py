# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Structures of our own making, in memory of our own, on a real kernel: for holders that no guest of the lab can have.

What is tested with them is how a walker follows structures as the sources have them, and not that kernels have these.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from drgn import Program, Type, TypeEnumerator, TypeMember

from drgn_thp.context import Context
from drgn_thp.holders.files import Descriptor
from drgn_thp.holders.ground import Ground
from drgn_thp.holders.model import Claim, Outcome, Walker

BASE = 0xFFFFF00000000000
"""Where no kernel has anything."""
SIZE = 1 << 20
_WIDTHS = {"u64": 8, "u32": 4, "u8": 1}


class Forge:
    """
    Some memory to write to, and what describes it.

    :param prog: One that nobody else has: its memory at BASE is that of the last one to have it
    :ivar ground: To walk on: its files and symbols are those that were forged
    """

    def __init__(self, prog: Program) -> None:
        self.prog = prog
        self.memory = bytearray(SIZE)
        self._next = 64
        self.prog.add_memory_segment(BASE, SIZE, self._read)
        self.ground = Ground(Context.of(self.prog))
        self.ground.begin(Outcome("forged"), 60)
        self._files: list[tuple[int, int, int]] = []
        self._symbols: dict[str, int] = {}
        self.ground.__dict__["files"] = self
        self.ground.__dict__["modules"] = frozenset[str]()
        self.ground.symbol = lambda name, module="": self._symbols.get(name)  # type: ignore[method-assign]

    def _read(self, address: int, count: int, offset: int, physical: bool) -> bytes:
        start = address - BASE
        return bytes(self.memory[start : start + count])

    # As Files has it.

    def having(self, operations: Iterable[int | None]) -> Iterator[tuple[int, int]]:
        """Yield the files that were forged."""
        wanted = {address for address in operations if address}
        yield from ((file, private) for file, operation, private in self._files if operation in wanted)

    def descriptors(self, file: int) -> list[Descriptor]:
        """Each file is open in one process."""
        return [Descriptor(1234, "forger", 5)]

    def symbol(self, name: str) -> int:
        """Return the address of something of that name; the same one each time."""
        return self._symbols.setdefault(name, self.allocate(8))

    def file(self, operations: str, private: int) -> int:
        """Return an open file."""
        file = self.allocate(256)
        self._files.append((file, self.symbol(operations), private))
        return file

    def struct(self, name: str, /, **members: str | Type) -> Type:
        """
        Have a structure described: one member behind the other.

        :param members: ``u64``, ``u32``, ``u8``, ``list`` (of which each is two words), or the name of another
            structure, or a type
        """
        at, made = 0, []
        for member, kind in members.items():
            type_ = self._type(kind) if isinstance(kind, str) else kind
            made.append(TypeMember(type_, member, at * 8))
            at += 8 * -(-int(getattr(type_, "size", None) or 4) // 8)
        tag = name.partition(" ")[2]
        found = self.prog.struct_type(tag, at, made)
        self.ground._types[name] = found
        return found

    def enum(self, **values: int) -> Type:
        """Return an enum."""
        number = self.prog.int_type("unsigned int", 4, False)
        return self.prog.enum_type("forged", number, [TypeEnumerator(name, value) for name, value in values.items()])

    def _type(self, kind: str) -> Type:
        if kind in _WIDTHS:
            return self.prog.int_type(kind, _WIDTHS[kind], False)
        if kind == "list":
            word = self._type("u64")
            return self.prog.struct_type(None, 16, [TypeMember(word, "next", 0), TypeMember(word, "prev", 64)])
        return self.ground.type(kind)

    def allocate(self, size: int) -> int:
        """Return the address of zeros."""
        address = BASE + self._next
        self._next += -(-size // 64) * 64
        assert self._next < SIZE
        return address

    def put(self, name: str, /, **values: int) -> int:
        """Return the address of a structure with some members, ``a__b`` for ``a.b``; the others are zero."""
        address = self.allocate(self.ground.size(name))
        for member, value in values.items():
            self.write(address + self.ground.offset(name, member.replace("__", ".")), value)
        return address

    def write(self, address: int, *words: int) -> None:
        """Write words."""
        for i, word in enumerate(words):
            start = address - BASE + 8 * i
            self.memory[start : start + 8] = word.to_bytes(8, "little")

    def words(self, *words: int) -> int:
        """Return the address of an array."""
        address = self.allocate(8 * len(words))
        self.write(address, *words)
        return address

    def chain(self, head: int, *links: int) -> None:
        """Make a ``struct list_head`` and the links in structures a list."""
        for one, following in zip((head, *links), (*links, head)):
            self.write(one, following)

    def page(self, pfn: int) -> int:
        """Return the address of a ``struct page``."""
        layout = self.ground.context.layout
        return layout.vmemmap + pfn * layout.page_struct_size

    def claims(self, walker: Walker) -> list[Claim]:
        """Return what a walker says; nothing may have gone wrong."""
        found = list(walker.walk(self.ground))
        assert self.ground.outcome.first_failure == ""
        return found

    def failure(self, walker: Walker) -> str:
        """Return what a walker says of what cannot be followed, having claimed nothing."""
        self.ground.begin(Outcome("forged"), 60)
        assert list(walker.walk(self.ground)) == []
        return self.ground.outcome.first_failure


def pages(claims: Iterable[Claim]) -> list[int]:
    """Return the page frames of some claims, sorted."""
    return sorted(int(pfn) for claim in claims for pfn in claim.pages)


def weights(claims: Iterable[Claim]) -> set[tuple[Any, Any, bool]]:
    """Return gets, pins and exactness of some claims."""
    return {(claim.gets, claim.pins, claim.exact) for claim in claims}
