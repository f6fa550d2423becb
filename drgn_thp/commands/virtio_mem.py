# SPDX-License-Identifier: LGPL-2.1-or-later
"""``virtio_mem``: the devices of virtio-mem, and what could be unplugged of them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TextIO

from ..blocks import Block
from ..escape import printable
from ..render.text import render
from ..session import Session
from .memblocks import scan
from .model import BLOCKS, Answer, Argument

DESCRIPTION = (
    "Show the devices of virtio-mem as their driver sees them: which sub-blocks of their memory are plugged, which of"
    " those could be unplugged, and what keeps the others."
)
MAP = (
    "sub-blocks: . unplugged, - can go, x kept, t kept for now, w the kernel would wait, o not tried, ? unknown"
    " (first to last)"
)


def arguments() -> Sequence[Argument]:
    """Return the options."""
    return (BLOCKS,)


def ask(session: Session, arguments: argparse.Namespace) -> Answer:
    """
    Scan the memory of virtio-mem.

    The value is a list of records, of the memory blocks and then of the devices, as in docs/schema.md.
    """
    context = session.context
    devices, shift = context.virtio_mem, context.kernel.page_shift
    if not devices.devices:
        return Answer([], [], incomplete=list(devices.notes))

    def of_a_device(block: Block) -> bool:
        return devices.device(block.start_pfn << shift) is not None

    answer = scan(session, ["contig"], arguments.blocks, lists=False, only=of_a_device)
    answer.value = [record for record in answer.records if record["kind"] != "summary"]
    return answer


def write(answer: Answer, out: TextIO) -> None:
    """Write a table for each device, and a map and what is kept for each of its blocks."""
    if not answer.records:
        out.write("no memory of virtio-mem in this kernel\n")
        return
    # The tables of paths are not asked for.
    render([*answer.records[:-1], {**answer.records[-1], "paths": []}], out, 0)
    out.write(f"\n{MAP}\n")
    for block in answer.value:
        own = block.get("virtio_mem")
        if own is None:
            continue
        out.write(f"{block['block']}: {own['map']}\n")
        for keeper in own["kept_by"]:
            reasons = ", ".join(f"{printable(name)} {number}" for name, number in keeper["reasons"].items())
            folios = " ".join(f"{pfn:#x}" for pfn in keeper["folios"])
            out.write(f"    sub-block {keeper['sub_block']} at {keeper['start']:#x}: {reasons}: {folios}\n")
