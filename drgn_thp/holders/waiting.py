# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Tasks that sleep in the middle of reading, writing or faulting, and the folios that they have a reference on meanwhile.

Who waits for a folio's lock, or for the end of its writeback, is in the kernel's table of such waits, with the folio.
Whether it has a reference follows from what it waits in; and what else it has, from the variables of its frames: a
batch of folios that are read one after another, a page that is to become writable.

Only what sleeps is looked at: what a task has that could go on right now changes with each instruction.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from drgn import Object, StackFrame, TypeKind

from ..layout import find_enumerator
from .frames import Live, LiveStacks, variable
from .ground import Ground
from .isolated import isolated
from .model import Damaged

HEAD, ENTRY, WAIT = "struct wait_queue_head", "struct wait_queue_entry", "struct wait_page_queue"
TABLES = ("folio_wait_table", "page_wait_table")  # renamed in v5.16, with struct folio
MAX_HEADS = 1 << 16
MAX_WAITERS = 1 << 16
# The frame in which a task waits for a bit of a folio.
_WAITS = ("folio_wait_bit_common", "wait_on_page_bit_common")
# Callers of it that gave their reference back before, or never had one.
_WITHOUT = ("folio_put_wait_locked", "put_and_wait_on_page_locked", "migration_entry_wait_on_locked")
_FAULT = ("handle_mm_fault",)
# Functions with a reference on each folio of a batch of theirs.
BATCHES = {
    "filemap_read": "read",
    "filemap_splice_read": "splice",
    "__filemap_fdatawait_range": "sync",
    "write_cache_pages": "writeback",
    "mpage_prepare_extent_to_map": "writeback",
    "extent_write_cache_pages": "writeback",
    "btree_write_cache_pages": "writeback",
    "truncate_inode_pages_range": "truncation",
    "shmem_undo_range": "truncation",
    "invalidate_inode_pages2_range": "invalidation",
}
# Functions with a reference on one folio, and their variables for it.
SINGLE = {
    "filemap_read_folio": ("read", ("folio",)),
    "generic_file_buffered_read": ("read", ("page",)),  # up to v5.11
    "shmem_file_read_iter": ("read", ("folio", "page")),
    "__block_write_begin_int": ("write", ("folio", "page")),
    "ext4_block_write_begin": ("write", ("folio", "page")),
    "do_page_mkwrite": ("write fault", ("folio", "page")),
}
_WRITE_BEGIN = ("__block_write_begin_int", "ext4_block_write_begin")
# What a fault on a file or in the swap area is called, by the function that it is in.
_FAULTS = {"do_swap_page": "swap-in", "filemap_fault": "page fault"}
_MAX_BATCH = 255  # its number of folios is an unsigned char


@dataclass(frozen=True)
class Wait:
    """That a task sleeps until a bit of a folio is cleared."""

    page: int
    bit: int


@dataclass
class Uses:
    """What one task has a reference on: addresses of ``struct page``, and in the middle of what."""

    task: int
    pages: dict[tuple[bool, int], str] = field(default_factory=dict)
    """By whether it is a page fault that has the reference, and the page: a read may run into a fault."""

    def add(self, fault: bool, page: int, what: str) -> None:
        self.pages.setdefault((fault, page), what)


def waiters(ground: Ground) -> dict[int, Wait]:
    """Return for each task that waits for a bit of a folio, in the way that :func:`folio_wait_bit` does, for what."""
    name = next((name for name in TABLES if ground.symbol(name) is not None), "")
    table, function = ground.symbol(name) if name else None, ground.symbol("wake_page_function")
    if table is None or function is None:
        return {}
    width = ground.size(HEAD)
    symbols = ground.prog.symbols(name)
    count = symbols[0].size // width if symbols else 0
    if not 0 < count <= MAX_HEADS:
        raise Damaged(f"a table of {count} wait queues")
    entry_at, wait_at = ground.offset(ENTRY, "entry"), ground.offset(WAIT, "wait")
    page_at = ground.offset(WAIT, "folio" if ground.has(WAIT, "folio") else "page")
    first = ground.offset(HEAD, "head")
    found: dict[int, Wait] = {}
    for head in range(table + first, table + first + count * width, width):
        with ground.part(f"wait queue {head:#x}"):
            for entry in ground.entries(head, entry_at, MAX_WAITERS):
                # Others are told by another function, and sleep somewhere else or not at all.
                if ground.pointer(ENTRY, entry, "func") == function:
                    wait = entry - wait_at
                    bit = ground.uint(WAIT, wait, "bit_nr")
                    found[ground.pointer(ENTRY, entry, "private")] = Wait(ground.word(wait + page_at), bit)
    return found


def uses(ground: Ground) -> list[Uses]:
    """Return what each task has that sleeps in one of the functions of this file; looked for once."""
    found = ground.shared.get("uses")
    if found is None:
        found = ground.shared["uses"] = list(_uses(ground))
    assert isinstance(found, list)
    return found


def _uses(ground: Ground) -> Iterator[Uses]:
    stacks = LiveStacks.of(ground)
    waiting = waiters(ground)
    names = {*BATCHES, *SINGLE, *_WAITS, *_FAULTS}
    reader = _Reader(ground, stacks)
    for live in stacks.within(names):
        wait = waiting.get(live.task.address)
        if live.sleeps:
            with ground.part(f"stack of {live.task.pid}"):
                yield reader.read(live, wait)


class _Reader:
    """Reads the frames of one task after another."""

    def __init__(self, ground: Ground, stacks: LiveStacks) -> None:
        self.ground = ground
        self._stacks = stacks
        self._bits = {
            find_enumerator(ground.prog, "PG_locked"): "wait for a lock",
            find_enumerator(ground.prog, "PG_writeback"): "wait for writeback",
        }
        self._isolated = {task: frozenset(pages) for task, pages in isolated(ground).items()}
        # filemap_fault() reads a page in by itself in kernels that have no function for it.
        self._old_fault = not ground.prog.symbols("filemap_read_folio")

    def read(self, live: Live, wait: Wait | None) -> Uses:
        """
        Return what a task has.

        :raises Damaged: if its stack cannot be unwound
        :raises FaultError: if its variables cannot be read
        """
        frames = self._stacks.trace(live.task)
        names = [frame.name or "" for frame in frames]
        in_fault = max((i for i, name in enumerate(names) if name in _FAULT), default=-1)
        found = Uses(live.task.address)
        for i, (name, frame) in enumerate(zip(names, frames)):
            fault = i < in_fault
            if name in BATCHES:
                for page in self._batch(frame):
                    found.add(fault, page, BATCHES[name])
            elif name in SINGLE:
                what, variables = SINGLE[name]
                page = self._page(frame, variables)
                if not page and name == "filemap_read_folio":
                    page = self._being_read(frames[i:])
                if not page and name in _WRITE_BEGIN:
                    page = self._being_written(frames[i:])
                if page:
                    found.add(fault, page, what)
            elif name == "filemap_fault" and self._old_fault and wait is None:
                page = self._page(frame, ("page",))
                if page:
                    found.add(fault, page, _FAULTS[name])
            elif name == "do_writepages":
                for page in self._writeback_batch(frame):
                    found.add(fault, page, "writeback")
        if wait is not None and any(name in _WAITS for name in names):
            self._waited_for(found, wait, frames, in_fault)
        for fault, page in list(found.pages):
            if fault:
                what = next((word for name, word in _FAULTS.items() if name in names[:in_fault]), "page fault")
                found.pages[fault, page] = what if found.pages[fault, page] != "write fault" else "write fault"
        return found

    def _waited_for(self, found: Uses, wait: Wait, frames: list[StackFrame], in_fault: int) -> None:
        names = [frame.name or "" for frame in frames]
        waits = next(i for i, name in enumerate(names) if name in _WAITS)
        fault = waits < in_fault
        # Without a description of it, nor would there be one of inlined callers that have no reference.
        variable(frames[waits], ("behavior",))
        if wait.page in self._isolated.get(found.task, ()):
            return  # that is the reference, and told of by another walker
        if any(name in _WITHOUT for name in names):
            # It may be in the batch still, although its reference has been given back.
            found.pages.pop((fault, wait.page), None)
        elif (fault, wait.page) not in found.pages:
            what = next((BATCHES[name] for name in names if name in BATCHES), self._bits.get(wait.bit, "wait"))
            found.add(fault, wait.page, what)

    def _page(self, frame: StackFrame, names: tuple[str, ...]) -> int:
        found = variable(frame, names)
        return 0 if found is None else int(found.value_())

    def _being_read(self, frames: list[StackFrame]) -> int:
        """
        Return what is read into the page cache, by where that is in the file; 0 if it cannot be told.

        Variables that a function has in registers are lost where it calls one of a module without debugging symbols.
        """
        for frame in frames:
            if frame.name == "filemap_fault":
                vmf = variable(frame, ("vmf",))
                return 0 if vmf is None else self._in_cache(vmf.vma.vm_file.f_mapping, int(vmf.pgoff.value_()))
            if frame.name == "filemap_read":
                iocb = variable(frame, ("iocb",))
                if iocb is None:
                    return 0
                index = int(iocb.ki_pos.value_()) >> self.ground.context.kernel.page_shift
                return self._in_cache(iocb.ki_filp.f_mapping, index)
        return 0

    def _being_written(self, frames: list[StackFrame]) -> int:
        """Return what is to be written to, from whoever had it prepared; 0 if that is lost there, too."""
        for frame in frames[:4]:
            if (frame.name or "").endswith("write_begin"):
                page = self._page(frame, ("folio", "page"))
                if page:
                    return page
        return 0

    def _in_cache(self, mapping: Object, index: int) -> int:
        """Return what a page cache has there, if it is locked, as what is being read is."""
        ground = self.ground
        page = ground.xarray_entry(int(mapping.i_pages.address_of_().value_()), index)
        for pfn in ground.pfns([page]).tolist():
            if ground.context.read_folio(pfn).locked[0]:
                return page
        return 0

    def _batch(self, frame: StackFrame) -> list[int]:
        found = variable(frame, ("fbatch", "pvec"))
        return [] if found is None else self._entries(found)

    def _writeback_batch(self, frame: StackFrame) -> list[int]:
        found = variable(frame, ("wbc",))
        if found is None or not found.value_():
            return []
        control = found[0]
        # Since v6.9, where writeback_iter() keeps it there.
        return self._entries(control.fbatch) if control.type_.has_member("fbatch") else []

    def _entries(self, batch: Object) -> list[int]:
        if batch.type_.kind == TypeKind.POINTER:
            batch = batch[0]
        entries = batch.folios if batch.type_.has_member("folios") else batch.pages
        count, most = int(batch.nr.value_()), int(entries.type_.length or 0)
        if count > min(most, _MAX_BATCH):
            raise Damaged(f"a batch of {count} folios")
        found = [int(entries[i].value_()) for i in range(count)]
        # What a page cache has instead of a folio that went is an odd number.
        return [page for page in found if not page & 1]
