# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The devices of virtio-mem as their driver sees them: region, sizes, mode, and what of each memory block is plugged.

The driver is a module more often than not. Where nothing describes its structures, or they cannot be read, the map of
physical memory still tells the region of each device, and PageOffline pages what of it is unplugged.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy
from drgn import FaultError, Object, Program, Type

from .folios import Column
from .kernel import Kernel
from .memmap import Memmap
from .pagetype import PageType
from .resources import Resources
from .target.modules import module_struct, module_variable

MAX_DEVICES = 256
MAX_STATES = 1 << 24
"""Memory blocks, and sub-blocks, of one device: more are none."""
_READ_ERRORS = (FaultError, LookupError, AttributeError, ValueError, OverflowError)

# enum virtio_mem_sbm_mb_state; until v5.12 enum virtio_mem_mb_state, which had one kind of online blocks only. The
# enumerators of a module are not always there, and their order has not changed since.
_SBM_STATES = (
    "unused",
    "plugged",
    "offline",
    "offline-partial",
    "kernel",
    "kernel-partial",
    "movable",
    "movable-partial",
)
_OLD_STATES = ("unused", "plugged", "offline", "offline-partial", "online", "online-partial")
_BBM_STATES = ("unused", "plugged", "added", "fake-offline")

SUB_BLOCK, BIG_BLOCK = "sub-block", "big-block"
DRIVER, INFERRED = "driver", "inferred"


@dataclass(frozen=True)
class Device:
    """
    A ``struct virtio_mem``. Sizes and addresses are in bytes; None for what is not known.

    :ivar source: ``driver``, or ``inferred`` from the map of physical memory
    :ivar unit: What is plugged and unplugged at a time: the size of a sub-block, or of a big block
    :ivar states: The driver's state of each unit's memory block (big block), from ``first`` on
    :ivar plugged_bits: Whether each sub-block is plugged, from the first of memory block ``first`` on
    """

    start: int
    end: int
    source: str
    unit: int
    block_size: int
    plugged_size: int
    mode: str | None = None
    node: int | None = None
    device_block_size: int | None = None
    requested_size: int | None = None
    usable_size: int | None = None
    first: int = 0
    states: tuple[str, ...] = ()
    plugged_bits: tuple[bool, ...] = ()
    unplug_online: bool | None = None
    broken: bool | None = None

    def state(self, address: int) -> str | None:
        """Return the driver's state of the block that an address lies in; None if it is not known."""
        if not self.states and self.source == INFERRED:
            return None
        index = address // self.block_size - self.first
        return self.states[index] if 0 <= index < len(self.states) else "unused"

    def rank(self, state: str | None, partial: bool, online: bool) -> int:
        """Return when blocks in some state are tried, by virtio_mem_unplug_request()."""
        if not online:
            return 0 if partial else 1
        order = ("movable-partial", "kernel-partial", "online-partial", "movable", "kernel", "online")
        if state in order:
            return 2 + order.index(state)
        return 2 if partial else 2 + len(order)

    def plugged(self, address: int, size: int) -> tuple[bool, ...]:
        """Return of each unit of a range whether it is plugged."""
        count = max(size // self.unit, 1)
        if self.mode == BIG_BLOCK:
            return (self.state(address) in ("plugged", "added", "fake-offline"),) * count
        first = (address - self.first * self.block_size) // self.unit
        bits = self.plugged_bits
        return tuple(bits[i] if 0 <= i < len(bits) else False for i in range(first, first + count))


@dataclass(frozen=True)
class VirtioMem:
    """All devices, in ascending order; and what is not known of them, in words."""

    devices: tuple[Device, ...] = ()
    notes: list[str] = field(default_factory=list)

    def device(self, address: int) -> Device | None:
        """Return the device that some memory is of."""
        return next((device for device in self.devices if device.start <= address < device.end), None)


def read_virtio_mem(prog: Program, kernel: Kernel, resources: Resources, memmap: Memmap, block_size: int) -> VirtioMem:
    """
    Return the devices of a target; none, without a word, if it has none.

    :param block_size: Of a memory block, in bytes
    """
    notes: list[str] = []
    devices: list[Device] = []
    regions = resources.virtio_mem_devices
    head = module_variable(prog, "virtio_mem", "virtio_mem_devices")
    if head is None and not regions:
        return VirtioMem()
    type_ = module_struct(prog, "virtio_mem")
    if head is None or type_ is None:
        what = "no types of its driver" if type_ is None else "its list of devices is not found"
        notes.append(f"virtio_mem: {what}: {len(regions)} devices are known by the map of memory only")
    else:
        try:
            for device in _listed(prog, type_, head, block_size):
                devices.append(device)
        except _READ_ERRORS as error:
            notes.append(
                f"virtio_mem: {' '.join(str(error).split())}: {len(devices)} devices were read from its driver"
            )
    known = {device.start for device in devices}
    for start, end in regions:
        if start not in known:
            devices.append(_inferred(kernel, resources, memmap, start, end, block_size, notes))
    return VirtioMem(tuple(sorted(devices, key=lambda device: device.start)), notes)


def _listed(prog: Program, type_: Type, head: int, block_size: int) -> Iterator[Device]:
    offset = type_.member("next").bit_offset // 8
    switch = module_variable(prog, "virtio_mem", "unplug_online")
    unplug_online = None if switch is None else bool(prog.read_u8(switch))
    node = prog.read_word(head)
    for _ in range(MAX_DEVICES):
        if node == head:
            return
        yield replace(_device(Object(prog, type_, address=node - offset), block_size), unplug_online=unplug_online)
        node = prog.read_word(node)
    raise ValueError(f"the list of devices does not end after {MAX_DEVICES}")


def _device(vm: Object, block_size: int) -> Device:
    """Read one ``struct virtio_mem``: big blocks, and the members sbm and bbm, are there since v5.13."""
    old = not _has(vm, "in_sbm")
    start, size = int(vm.addr), int(vm.region_size)
    device = Device(
        start,
        start + size,
        DRIVER,
        0,
        block_size,
        int(vm.plugged_size),
        SUB_BLOCK if old or bool(vm.in_sbm) else BIG_BLOCK,
        node=int(vm.nid),
        device_block_size=int(vm.device_block_size),
        requested_size=int(vm.requested_size),
        broken=bool(vm.broken),
    )
    if device.mode == BIG_BLOCK:
        return _big_blocks(device, vm)
    if old:
        first, following, last = int(vm.first_mb_id), int(vm.next_mb_id), int(vm.last_usable_mb_id)
        unit, per_block = int(vm.subblock_size), int(vm.nb_sb_per_mb)
        states, bitmap = vm.mb_state, vm.sb_bitmap
    else:
        sbm = vm.sbm
        first, following, last = int(sbm.first_mb_id), int(sbm.next_mb_id), int(sbm.last_usable_mb_id)
        unit, per_block = int(sbm.sb_size), int(sbm.sbs_per_mb)
        states, bitmap = sbm.mb_states, sbm.sb_states
    count = following - first
    if not unit or unit * per_block != block_size or not 0 <= count <= MAX_STATES // per_block:
        raise ValueError(f"sub-blocks of {unit:#x} bytes, {per_block} to a block, for {count} blocks make no sense")
    # The configuration has the size; the driver keeps it since 7.x only.
    usable = int(vm.usable_region_size) if _has(vm, "usable_region_size") else (last + 1) * block_size - start
    return replace(
        device,
        unit=unit,
        usable_size=max(min(usable, size), 0),
        first=first,
        states=_states(vm, states, count, _OLD_STATES if old else _SBM_STATES),
        plugged_bits=_bits(vm, bitmap, count * per_block),
    )


def _big_blocks(device: Device, vm: Object) -> Device:
    bbm = vm.bbm
    size, first, following = int(bbm.bb_size), int(bbm.first_bb_id), int(bbm.next_bb_id)
    count = following - first
    if not size or not 0 <= count <= MAX_STATES:
        raise ValueError(f"{count} big blocks of {size:#x} bytes make no sense")
    usable = (int(bbm.last_usable_bb_id) + 1) * size - device.start
    return replace(
        device,
        unit=size,
        block_size=size,
        usable_size=max(min(usable, device.end - device.start), 0),
        first=first,
        states=_states(vm, bbm.bb_states, count, _BBM_STATES),
    )


def _has(vm: Object, member: str) -> bool:
    return bool(vm.type_.has_member(member))


def _states(vm: Object, states: Object, count: int, names: tuple[str, ...]) -> tuple[str, ...]:
    data = vm.prog_.read(int(states), count) if count else b""
    return tuple(names[value] if value < len(names) else f"unknown-{value}" for value in data)


def _bits(vm: Object, bitmap: Object, count: int) -> tuple[bool, ...]:
    words = -(-count // 64)
    data = vm.prog_.read(int(bitmap), words * 8) if count else b""
    # Bit 0 of a word is its lowest: of 64-bit words in little endian order, that of bytes, too.
    return tuple(numpy.unpackbits(numpy.frombuffer(data, numpy.uint8), bitorder="little")[:count].astype(bool).tolist())


def _inferred(
    kernel: Kernel, resources: Resources, memmap: Memmap, start: int, end: int, block_size: int, notes: list[str]
) -> Device:
    """Return what can be told of a device without its driver: sub-blocks of PageOffline pages are unplugged."""
    # max(pageblock, device block); until 5.17, whole blocks of the buddy allocator. A device may have larger ones.
    order = kernel.pageblock_order if kernel.isolates_pageblocks else max(kernel.pageblock_order, kernel.max_page_order)
    unit = 1 << order + kernel.page_shift
    bits: list[bool] = []
    unreadable = 0
    added = [(low << kernel.page_shift, high << kernel.page_shift) for low, high in resources.virtio_mem]
    for address in range(start, end, unit):
        inside = any(low <= address < high for low, high in added)
        try:
            bits.append(inside and not _is_offline(memmap, address >> kernel.page_shift, 1 << order))
        except FaultError:
            unreadable += 1
            bits.append(True)
    if unreadable:
        notes.append(f"virtio_mem: of {unreadable} sub-blocks struct pages cannot be read: they are taken for plugged")
    plugged = sum(bits) * unit
    return Device(
        start,
        end,
        INFERRED,
        unit,
        block_size,
        plugged,
        first=start // block_size,
        plugged_bits=tuple(bits),
    )


def _is_offline(memmap: Memmap, pfn: int, count: int) -> bool:
    """Return whether all pages are PageOffline."""
    if int(_types(memmap, pfn, 1)[0]) != PageType.OFFLINE:
        return False
    return all(
        bool((_types(memmap, first, min(memmap.pages_per_chunk, pfn + count - first)) == PageType.OFFLINE).all())
        for first in range(pfn, pfn + count, memmap.pages_per_chunk)
    )


def _types(memmap: Memmap, pfn: int, count: int) -> Column:
    types: Column = memmap.folios(memmap.rows(memmap.read(pfn, count), numpy.arange(count))).type
    return types
