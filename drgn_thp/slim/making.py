# SPDX-License-Identifier: LGPL-2.1-or-later
"""Makes a slim core: record the analysis, write what it read, open that, and compare."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace

from drgn import Program
from drgn.helpers.linux.mm import phys_to_virt

from ..blocks import Block
from ..context import Context
from ..errors import DrgnThpError, TargetError
from ..target import SLIM_NOTE, Memory, Target, TargetSpec, open_memory, open_types
from ..target.vmcoreinfo import read_vmcoreinfo
from .answers import Answers, ask
from .core import Layout, write_core
from .extras import touch_extras, touch_page_tables, touch_struct_pages
from .guard import Guard
from .output import check_output, compressing, scratch_beside
from .pages import KINDS, STRUCT_PAGES, STRUCTURES, SYMBOLS
from .recorder import REGION, Recorder

BlockFilter = Callable[[Block], bool]


@dataclass(frozen=True)
class Made:
    """
    A slim core that was written and verified.

    :ivar pages: Number of pages by kind.
    :ivar incomplete: What the source lacked, or what was left out as none of the kernel's; in words.
    :ivar needs_symbols: Why it cannot be opened without debugging symbols; empty if it can.
    """

    path: str
    release: str
    bytes: int
    page_size: int
    pages: dict[str, int]
    answers: Answers
    incomplete: tuple[str, ...]
    types: tuple[str, ...]
    needs_symbols: str


def make_slim(
    spec: TargetSpec,
    output: str,
    blocks: str = "",
    block_filter: Callable[[Context], BlockFilter | None] = lambda context: None,
    racy_check: str | None = None,
    progress: Callable[[int], None] = lambda pages: None,
) -> Made:
    """
    Write a slim core of a target.

    :param blocks: What the user calls the memory blocks that are wanted; empty for all
    :param block_filter: Returns which these are
    :raises BadArgument: if the output cannot be what is asked, or there are no such blocks
    :raises TargetError: if the target cannot be opened, or what was written does not give the same answers
    """
    check_output(output, spec.core)
    source = open_memory(spec)
    vmcoreinfo = source.prog["VMCOREINFO"].string_()
    page_size = int(read_vmcoreinfo(source.prog).get("PAGESIZE", 4096))
    with Recorder(source.prog, page_size, os.path.dirname(output) or ".") as recorder:
        # To a recorded Program, a live target is a core: what it needs must be in its memory, not on the machine.
        memory = replace(spec, core=source.name, kernel=False, qemu=None)
        recorder.bulk = SYMBOLS
        target = open_types(Memory(recorder.program(vmcoreinfo), source.name, list(source.notes)), memory)
        recorder.bulk = STRUCTURES
        context = Context.of(target.prog, racy_check)
        recorder.map_directly(target.prog, *_direct_map(context))
        recorder.find_users = Guard(source.prog, context).find_users
        _drop_users(recorder)
        _ = context.virtio_mem  # now, so that what is read of its driver is not taken for struct pages
        recorder.bulk = STRUCT_PAGES
        wanted = block_filter(context)
        touch_struct_pages(context, wanted)
        answers = ask(context, wanted, progress)
        if not answers.blocks:
            raise TargetError(f"{source.name}: no such memory block: {blocks or 'none at all'}")
        recorder.bulk = STRUCTURES
        touch_extras(target.prog, context)
        touch_page_tables(context, (region * REGION for region in sorted(recorder.read_directly)))
        specs, needs_symbols = _ways_to_open(recorder, vmcoreinfo, target, memory, racy_check)
        held = f"memory blocks {blocks}" if blocks else "all memory blocks"
        held += f" of Linux {target.release}, written by drgn_thp"
        layout = _layout(target.prog, page_size, vmcoreinfo, _direct_map(context)[0], held)
        with scratch_beside(output) as scratch:
            with compressing(scratch, output) as sink:
                write_core(sink, layout, recorder.pages.runs(), recorder.read)
            types = tuple(_verify(replace(way, core=scratch), block_filter, racy_check, answers) for way in specs)
            size = os.path.getsize(scratch)
            os.replace(scratch, output)
        counts = {KINDS[kind]: number for kind, number in recorder.pages.counts().items()}
        incomplete = [*answers.incomplete]
        if recorder.refused:
            incomplete.append(
                f"{len(recorder.refused)} pages of processes, files or nobody were asked for, and left out"
            )
        return Made(output, target.release, size, page_size, counts, answers, tuple(incomplete), types, needs_symbols)


def _drop_users(recorder: Recorder) -> None:
    """Look at what was read before the struct pages could be."""
    assert recorder.find_users is not None
    for first, end in recorder.pages.runs():
        users = recorder.find_users(first, end)
        recorder.refused.update(users.tolist())
        recorder.pages.drop(users)


def _ways_to_open(
    recorder: Recorder, vmcoreinfo: bytes, target: Target, spec: TargetSpec, racy_check: str | None
) -> tuple[list[TargetSpec], str]:
    """
    Record as well what it takes to open the core without debugging symbols, if it was opened with them.

    :return: How to open it; and why not without symbols
    """
    if not target.has_unwinder:  # that is how it was opened
        return [spec], ""
    alone = replace(spec, symbols=(), default_symbols="none", try_symbols_by=(), no_btf=False)
    recorder.bulk = SYMBOLS
    try:
        memory = Memory(recorder.program(vmcoreinfo), spec.core or "")
        prog = open_types(memory, alone).prog
        recorder.bulk = STRUCTURES
        touch_extras(prog, Context.of(prog, racy_check))
    except DrgnThpError as error:
        return [spec], str(error)
    return [spec, alone], ""


def _direct_map(context: Context) -> tuple[int, int]:
    """Return where the direct map begins, and its size."""
    start = int(phys_to_virt(context.prog, 0).value_())
    return start, max((end for _, end in context.sections.runs()), default=0) << context.kernel.page_shift


def _layout(prog: Program, page_size: int, vmcoreinfo: bytes, direct_map: int, held: str) -> Layout:
    platform = prog.platform
    assert platform is not None
    notes = (("VMCOREINFO", vmcoreinfo), (SLIM_NOTE, held.encode()))
    return Layout(platform, page_size, direct_map, notes)


def _verify(
    spec: TargetSpec,
    block_filter: Callable[[Context], BlockFilter | None],
    racy_check: str | None,
    expected: Answers,
) -> str:
    """
    Open what was written, and ask again.

    :return: Where its types are from
    :raises TargetError: if the answers are others
    """
    target = open_types(open_memory(spec), spec)
    context = Context.of(target.prog, racy_check)
    difference = expected.difference(ask(context, block_filter(context), lambda pages: None))
    if difference:
        raise TargetError(f"what was written does not give the answers of its source, and was removed: {difference}")
    return target.types_source
