# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Buffer heads in use, for which a page of a block device is not moved, and the file system or journal that uses them.

A use is no reference on the folio, so nothing of this is counted: it is shown for what it is. Of file systems that are
not known here, and of what somebody uses for a moment, it is said whose device it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy
from drgn import FaultError
from drgn.helpers.linux.percpu import per_cpu

from ..again import read_again
from ..buffers import MAX_BUFFERS
from ..context import needs_buffers
from ..formulas import page_cache
from ..layout import find_enumerator, possible_cpus
from ..structs import Struct
from .ground import Ground
from .model import Claim, Damaged, Owner, Walker

BUFFER, SUPER, JOURNAL = "struct buffer_head", "struct super_block", "struct journal_head"
MAX_SUPER_BLOCKS = 1 << 16
MAX_DESCRIPTORS = 1 << 20
# What file systems keep, by the structure behind s_fs_info: single buffers, and an array with its length.
_KEPT = {"ext4": "struct ext4_sb_info", "ext3": "struct ext4_sb_info", "ext2": "struct ext2_sb_info"}
_SINGLE = {"s_sbh": "superblock", "s_mmp_bh": "multiple mount protection"}
_ARRAY, _LENGTH = "s_group_desc", "s_gdb_count"


@dataclass
class _Uses:
    """
    Who uses which buffer, by its address.

    :ivar recent: On which CPUs a buffer is among those used last, which is a use each: the kernel drops these first
    """

    known: dict[int, list[Owner]] = field(default_factory=dict)
    recent: dict[int, list[int]] = field(default_factory=dict)

    def add(self, buffer: int, owner: Owner) -> None:
        if buffer:
            self.known.setdefault(buffer, []).append(owner)


@dataclass(frozen=True)
class _Mounted:
    kind: str
    device: str
    info: int


def walk(ground: Ground) -> Iterator[Claim]:
    """Yield who uses buffers of each page that was asked about."""
    folios = list(_folios(ground))
    if not folios:
        return
    mounted = _mounted(ground)
    uses = _Uses()
    for device in mounted.values():
        with ground.part(f"file system on {device.device}"):
            _kept(ground, device, uses)
    _recently_used(ground, uses)
    reader = _Reader(ground, uses, mounted)
    for pfn, first in folios:
        with ground.part(f"buffers of {pfn:#x}"):
            for owner in reader.owners(first):
                yield Claim(owner, [pfn], expected=True)


def _folios(ground: Ground) -> Iterator[tuple[int, int]]:
    """Yield those of the folios asked about that buffers in use keep from moving, with the first of their buffers."""
    wanted, context = ground.wanted, ground.context
    if wanted is None or not len(wanted):
        return
    orders = numpy.log2(numpy.maximum(wanted.pages, 1)).astype(numpy.int64)
    rows = read_again(context.memmap, wanted.start, orders).rows
    f = context.memmap.folios(rows)
    f = context.folios(rows.select(page_cache(f) & (f.private_flag != 0)))
    for row in numpy.flatnonzero(needs_buffers(f)).tolist():
        yield int(f.pfn[row]), int(f.private[row])


def _mounted(ground: Ground) -> dict[int, _Mounted]:
    """Return what is mounted, by its ``struct block_device``."""
    head = ground.symbol("super_blocks")
    found: dict[int, _Mounted] = {}
    if head is None:
        return found
    with ground.part("list of super blocks"):
        for address in ground.entries(head, ground.offset(SUPER, "s_list"), MAX_SUPER_BLOCKS):
            with ground.part(f"super block {address:#x}"):
                device = ground.pointer(SUPER, address, "s_bdev")
                if device:
                    name = ground.pointer("struct file_system_type", ground.pointer(SUPER, address, "s_type"), "name")
                    info = ground.pointer(SUPER, address, "s_fs_info")
                    found[device] = _Mounted(ground.string(name), ground.string(address + _name_at(ground)), info)
    return found


def _name_at(ground: Ground) -> int:
    return ground.offset(SUPER, "s_id")


def _kept(ground: Ground, mounted: _Mounted, uses: _Uses) -> None:
    """Add the buffers that a file system keeps while it is mounted."""
    type_ = _KEPT.get(mounted.kind, "")
    if not type_ or not ground.has(type_) or not mounted.info:
        return
    for member, what in _SINGLE.items():
        if ground.has(type_, member):
            buffer = ground.pointer(type_, mounted.info, member)
            uses.add(buffer, Owner(f"{what} of {mounted.kind}", device=mounted.device))
    count = ground.uint(type_, mounted.info, _LENGTH)
    if count > MAX_DESCRIPTORS:
        raise Damaged(f"{count} blocks of group descriptors")
    array = ground.pointer(type_, mounted.info, _ARRAY)
    for buffer in ground.words(array, count).tolist() if array else ():
        uses.add(buffer, Owner(f"group descriptors of {mounted.kind}", device=mounted.device))
    if ground.has(type_, "s_journal"):
        journal = ground.pointer(type_, mounted.info, "s_journal")
        if journal:
            buffer = ground.pointer("struct journal_s", journal, "j_sb_buffer")
            uses.add(buffer, Owner(f"superblock of the journal of {mounted.kind}", device=mounted.device))


def _recently_used(ground: Ground, uses: _Uses) -> None:
    with ground.part("recently used buffers"):
        for cpu in possible_cpus(ground.prog):
            for buffer in per_cpu(ground.prog["bh_lrus"], cpu).bhs:
                address = int(buffer.value_())
                if address:
                    uses.recent.setdefault(address, []).append(cpu)


class _Reader:
    """Reads the ring of buffers of one folio after another."""

    def __init__(self, ground: Ground, uses: _Uses, mounted: dict[int, _Mounted]) -> None:
        self.ground = ground
        self._uses, self._mounted = uses, mounted
        self._buffer = Struct(ground.prog, BUFFER, ("b_state", "b_this_page", "b_count", "b_bdev", "b_private"))
        journaled = find_enumerator(ground.prog, "BH_JBD") if ground.has(JOURNAL) else None
        self._journaled = 0 if journaled is None else 1 << journaled

    def owners(self, first: int) -> list[Owner]:
        """
        Return who uses the buffers of a folio, each once.

        :param first: Address of one of them
        :raises FaultError: if they cannot be read
        :raises Damaged: if their ring does not end
        """
        found: dict[Owner, None] = {}
        address = first
        for _ in range(MAX_BUFFERS):
            self.ground.step()
            members = self._buffer.read(address)
            for owner in self._of_buffer(address, members):
                found.setdefault(owner)
            address = members["b_this_page"]
            if address == first:
                return list(found)
        raise Damaged("the ring of buffers does not end")

    def _of_buffer(self, address: int, members: dict[str, int]) -> Iterator[Owner]:
        mounted = self._mounted.get(members["b_bdev"])
        kind, device = (mounted.kind, mounted.device) if mounted else ("", self._disk(members["b_bdev"]))
        known = list(self._uses.known.get(address, ()))
        if members["b_state"] & self._journaled and members["b_private"]:
            known.append(Owner(self._journal(members["b_private"], kind), device=device))
        yield from known
        recent = self._uses.recent.get(address, [])
        for cpu in recent:
            yield Owner("recently used buffer", cpu=cpu, device=device)
        if members["b_count"] > len(known) + len(recent):
            yield Owner(f"buffer in use by {kind}" if kind else "buffer in use", device=device)

    def _journal(self, head: int, kind: str) -> str:
        """Return what a journal has a buffer for."""
        ground, transaction = self.ground, "struct transaction_s"
        what = "journal" + (f" of {kind}" if kind else "")
        for member, state in (
            ("b_transaction", ""),
            ("b_next_transaction", ""),
            ("b_cp_transaction", ", to be written in place"),
        ):
            found = ground.pointer(JOURNAL, head, member)
            if found:
                return f"{what}: transaction {ground.uint(transaction, found, 't_tid')}{state}"
        return what

    def _disk(self, device: int) -> str:
        ground = self.ground
        try:
            disk = ground.pointer("struct block_device", device, "bd_disk")
            return ground.string(disk + ground.offset("struct gendisk", "disk_name"))
        except FaultError:
            return "a device that cannot be read"


WALKERS = (
    Walker(
        kind="buffer-head",
        summary="a page of a block device that a file system or journal has in use; no reference, and not counted",
        frees="unmount the file system; what a journal has is written in place by and by, or by freezing (fsfreeze -f)",
        walk=walk,
        types=(BUFFER, SUPER),
    ),
)
