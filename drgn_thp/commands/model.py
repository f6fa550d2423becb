# SPDX-License-Identifier: LGPL-2.1-or-later
"""What commands are made of."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Callable, Protocol, TextIO

from tabulate import tabulate

from ..blocks import Block, named_blocks, read_blocks
from ..confirm import Looks
from ..describe import Describer, Record
from ..errors import BadArgument
from ..escape import printable
from ..folios import Column, Folios
from ..gates import find_path
from ..session import Session
from ..walk import Walk

DEFAULT_INTERVAL = 1.0


class Argument:
    """An argument or option, in the words of ``argparse.ArgumentParser.add_argument()``."""

    def __init__(self, *names: str, **options: Any) -> None:
        self.names = names
        self.options = options


BLOCKS = Argument(
    "blocks",
    nargs="*",
    metavar="BLOCK",
    help="only this memory block (32), these blocks (32-35), or those in a range of addresses"
    " (0x100000000-0x1ffffffff)",
)


LOOKS = (
    Argument(
        "--confirm",
        type=int,
        metavar="N",
        help="look N times more at each refused folio that is listed, and say which stay (persistent), which were only"
        " passing (transient), and which are gone; only with -k or --qemu",
    ),
    Argument(
        "--interval",
        type=float,
        default=DEFAULT_INTERVAL,
        metavar="SECONDS",
        help=f"time between two looks (default: {DEFAULT_INTERVAL:g})",
    ),
)


HOLDERS = Argument(
    "--holders",
    action=argparse.BooleanOptionalAction,
    help="find out who holds the folios that are listed, and who maps them (default: no)",
)

SEARCH = Argument(
    "--search",
    action="store_true",
    help="also search the kernel's memory for what points to folios that nobody explains, and follow that to a"
    " file or task: a trail, no proof (with --holders)",
)


def looks_of(arguments: argparse.Namespace) -> Looks | None:
    """Return how often the user wants to look again."""
    return None if arguments.confirm is None else Looks(arguments.confirm, arguments.interval)


@dataclass
class Answer:
    """
    What a command has to say.

    :ivar value: The same as a Python object: what a command returns at the prompt
    :ivar records: The same for programs
    :ivar refused: Whether anything is refused
    :ivar failures: What was asked for, but does not exist or cannot be read, a line each
    :ivar incomplete: What is missing from the answer, a line each
    """

    value: Any
    records: list[Record]
    refused: bool = False
    failures: list[str] = field(default_factory=list)
    incomplete: list[str] = field(default_factory=list)


class Command(Protocol):
    """What a module of this package looks like."""

    DESCRIPTION: str

    def arguments(self) -> Sequence[Argument]:
        """Return the options."""

    def ask(self, session: Any, arguments: argparse.Namespace) -> Answer:
        """Find out. The session is None for what needs no target."""

    def write(self, answer: Answer, out: TextIO) -> None:
        """Show an answer to people."""


def asked_blocks(session: Session, texts: Sequence[str]) -> list[Block]:
    """
    Return the memory blocks that the user means.

    :raises BadArgument: if there are none
    """
    wanted = named_blocks(texts, session.context.kernel.page_shift)
    blocks, _ = read_blocks(session.context.prog, session.context.sections)
    blocks = [block for block in blocks if wanted is None or wanted(block)]
    if not blocks:
        raise BadArgument(f"no such memory block: {', '.join(texts) or 'none at all'}")
    return blocks


@dataclass
class Listing:
    """A pass over memory that lists folios of some kind."""

    session: Session
    blocks: Sequence[str]
    incomplete: list[str] = field(default_factory=list)

    def records(
        self, path: str, wanted: Callable[[Folios], Column], more: Callable[[Folios, int], Record]
    ) -> Iterator[Record]:
        """
        Yield a record for each folio that is wanted.

        :param path: Whose verdict is in the record
        :param more: Returns what else to say of a row of a table
        """
        session, context = self.session, self.session.context
        blocks = asked_blocks(session, self.blocks)
        path_here, describer = find_path(path).of(context.kernel), Describer(context)
        walk = Walk(context, blocks)
        with session.progress(walk.pages) as progress:
            walk = Walk(context, blocks, progress)
            for f in walk.folios(wanted):
                for i, record in enumerate(describer.folios(f, [path_here], None)):
                    record["block"] = next((b.id for b in blocks if b.start_pfn <= record["pfn"] < b.end_pfn), None)
                    yield {**record, **more(f, i)}
        if walk.interrupted:
            self.incomplete.append("interrupted: memory after this was not looked at")
        if walk.unreadable:
            self.incomplete.append(f"{walk.unreadable} struct pages {session.missing}")
        self.incomplete += context.doubts.notes


def write_table(rows: Sequence[Sequence[str]], headers: Sequence[str], left: Sequence[str], out: TextIO) -> None:
    """
    Write a table; nothing if it has no rows.

    :param left: Names of the columns of words; the others are of numbers
    """
    if rows:
        align = ["left" if header in left else "right" for header in headers]
        out.write(tabulate(rows, headers, tablefmt="simple", disable_numparse=True, colalign=align) + "\n")


def write_incomplete(answer: Answer, out: TextIO) -> None:
    """Say what is missing from an answer."""
    out.write("".join(f"INCOMPLETE: {printable(what)}\n" for what in answer.incomplete))


def number(value: object) -> str:
    """Return a count for a table."""
    return "-" if value is None else str(value)
