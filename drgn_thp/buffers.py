# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Buffer heads of block-device pages: buffer_migrate_folio_norefs() refuses a folio while any of them is in use.

References of the per-CPU lists of recently used buffers (bh_lrus) do not count: the kernel empties these first.
"""

from __future__ import annotations

from typing import Literal

from drgn import FaultError, Object, Program
from drgn.helpers.linux.percpu import per_cpu

from .errors import UnknownLayout
from .layout import find_type, is_little_endian, possible_cpus

MAX_BUFFERS = 4096  # per folio: 2 MiB of 512-byte blocks


class Buffers:
    """Reads rings of ``struct buffer_head``."""

    def __init__(self, prog: Program) -> None:
        self.prog = prog
        type_ = find_type(prog, "struct buffer_head")
        if type_ is None or type_.size is None:
            raise UnknownLayout("struct buffer_head not found")
        self._size = type_.size
        self._order: Literal["little", "big"] = "little" if is_little_endian(prog) else "big"
        self._next = type_.member("b_this_page").bit_offset // 8
        self._count = type_.member("b_count").bit_offset // 8
        self._recent: dict[int, int] = {}
        self.failures: list[str] = []
        """Which lists of recently used buffers could not be read: their buffers look busy."""
        try:
            lrus = prog["bh_lrus"]
        except LookupError:
            return
        try:
            cpus = list(possible_cpus(prog))
        except FaultError as error:
            self.failures.append(f"list of CPUs: {error}")
            return
        for cpu in cpus:
            try:
                for bh in per_cpu(lrus, cpu).bhs:
                    self._remember(bh)
            except FaultError as error:
                self.failures.append(f"of CPU {cpu}: {error}")

    def _remember(self, bh: Object) -> None:
        address = int(bh.value_())
        if address:
            self._recent[address] = self._recent.get(address, 0) + 1

    def busy(self, first: int) -> bool:
        """
        Return whether any buffer of a folio is in use.

        :param first: ``struct buffer_head *`` in the folio's private
        :raises FaultError: if the ring cannot be followed
        """
        address = first
        for _ in range(MAX_BUFFERS):
            data = self.prog.read(address, self._size)
            count = int.from_bytes(data[self._count : self._count + 4], self._order, signed=True)
            if count > self._recent.get(address, 0):
                return True
            address = int.from_bytes(data[self._next : self._next + 8], self._order)
            if address == first:
                return False
        raise FaultError("endless ring of buffer heads", first)
