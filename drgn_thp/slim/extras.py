# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a slim core holds beside what the analysis reads: for other tools, and for questions that are asked later."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import islice

from drgn import FaultError, Program
from drgn.helpers.linux.mm import phys_to_virt
from drgn.helpers.linux.module import for_each_module, module_address_regions

from ..blocks import Block, online_ranges, read_blocks
from ..context import Context
from ..layout import find_type
from ..target.vmcoreinfo import read_vmcoreinfo

MAX_MODULES = 4096
_GIGABYTE = 1 << 30
# Read by makedumpfile, crash and people; of none of these there can be a secret in it.
_SYMBOLS = ("init_uts_ns", "linux_banner", "modules", "btf_modules", "init_mm", "isolate_migratepages_block")
_MAX_SYMBOL_BYTES = 1 << 16
_SMALLEST_READ = 64  # struct pages


def touch_extras(prog: Program, context: Context) -> None:
    """Read them, so that they are recorded. What cannot be read is not missed."""
    for address, size in [*_symbols(prog), *_vmcoreinfo(prog)]:
        try:
            prog.read(address, size)
        except (FaultError, ValueError):
            continue
    _modules(prog)
    _direct_map(prog, context)
    # Types of modules are looked for in all of their BTF.
    find_type(prog, "struct virtio_mem")


def touch_struct_pages(context: Context, wanted: Callable[[Block], bool] | None) -> None:
    """
    Read all struct pages of memory blocks.

    The scan does not read what it can tell to be free; who asks for a single folio, or a later version of it, may.
    """
    blocks, _ = read_blocks(context.prog, context.sections)
    runs = context.sections.runs()
    for block in blocks:
        if wanted is None or wanted(block):
            for start, end in online_ranges(block, runs):
                for pfn in range(start, end, context.memmap.pages_per_chunk):
                    _touch_pages(context, pfn, min(pfn + context.memmap.pages_per_chunk, end))


def _touch_pages(context: Context, start: int, end: int) -> None:
    try:
        context.memmap.read(start, end - start)
    except FaultError:
        if end - start > _SMALLEST_READ:
            middle = (start + end) // 2
            _touch_pages(context, start, middle)
            _touch_pages(context, middle, end)


def _symbols(prog: Program) -> Iterator[tuple[int, int]]:
    for name in _SYMBOLS:
        for symbol in prog.symbols(name):
            yield symbol.address, min(max(symbol.size, 8), _MAX_SYMBOL_BYTES)


def _vmcoreinfo(prog: Program) -> Iterator[tuple[int, int]]:
    """Yield what VMCOREINFO points to, and where it is itself."""
    for key, value in read_vmcoreinfo(prog).items():
        if key.startswith("SYMBOL("):
            try:
                yield int(value, 16), 8
            except ValueError:
                continue
    for name in ("vmcoreinfo_data", "vmcoreinfo_note"):
        for symbol in prog.symbols(name):
            try:
                yield prog.read_u64(symbol.address), 8
            except FaultError:
                continue


def _modules(prog: Program) -> None:
    """Read what names modules and tells their addresses."""
    try:
        for module in islice(for_each_module(prog), MAX_MODULES):
            module.name.string_()
            list(module_address_regions(module))
    except (FaultError, LookupError, AttributeError):
        return


def _direct_map(prog: Program, context: Context) -> None:
    """Read the page tables of the direct map, so that its addresses can be looked up, as far as huge pages map it."""
    for start, end in context.sections.runs():
        for address in range(start << context.kernel.page_shift, end << context.kernel.page_shift, _GIGABYTE):
            with suppress(FaultError, LookupError, NotImplementedError):
                context.virtual_to_pfn(int(phys_to_virt(prog, address).value_()))


def touch_page_tables(context: Context, addresses: Iterable[int]) -> None:
    """Read the page tables that lead to some of the kernel's addresses."""
    for address in addresses:
        with suppress(FaultError, LookupError, NotImplementedError):
            context.virtual_to_pfn(address)
