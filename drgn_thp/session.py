# SPDX-License-Identifier: LGPL-2.1-or-later
"""A Program and all that is known of it: what the command line opens, and what a drgn session has open already."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Callable

from drgn import Program, ProgramFlags

from .context import Context
from .errors import TargetError, UnknownLayout
from .layout import find_type
from .target import SLIM_NOTE, Memory, Target, TargetSpec, open_types
from .target.elf import read_elf

Progress = Callable[[int], AbstractContextManager[Callable[[int], None]]]
_KEY = "drgn_thp.session"
_MAX_SLIM_NOTE = 1000


@contextmanager
def no_progress(total: int) -> Iterator[Callable[[int], None]]:
    """Show nothing."""
    yield lambda pages: None


@dataclass
class Session:
    """
    What commands work on.

    :ivar slim: Whether the target is a slim core: what it lacks was left out on purpose
    :ivar progress: Shows how far a pass over some number of pages has come
    """

    context: Context
    types_source: str
    notes: list[str] = field(default_factory=list)
    slim: bool = False
    progress: Progress = no_progress

    @staticmethod
    def of_target(target: Target, context: Context, progress: Progress = no_progress) -> Session:
        """Return the session of what the command line opened."""
        return Session(context, target.types_source, target.notes, target.slim is not None, progress)

    @staticmethod
    def of(prog: Program, progress: Progress = no_progress) -> Session:
        """
        Return the session of a Program that somebody else opened, made when first asked for.

        A Program without types is given those that the kernel itself carries (BTF).

        :raises DrgnThpError: if it is no Linux kernel, has no types, or is not understood
        """
        target = prog.cache.get(_KEY)
        if not isinstance(target, Target):
            target = prog.cache[_KEY] = _adopt(prog)
        return Session.of_target(target, Context.fresh(prog), progress)

    @property
    def missing(self) -> str:
        """How to say of something that it could not be read."""
        return "are not recorded in this slim core" if self.slim else "could not be read"


def _adopt(prog: Program) -> Target:
    if not prog.flags & ProgramFlags.IS_LINUX_KERNEL:
        raise TargetError("this program is no Linux kernel")
    path = prog.core_dump_path
    slim = None if path is None else _slim_note(path)
    notes = [] if slim is None else [f"slim core: {slim}"]
    if find_type(prog, "struct page") is not None:
        try:
            source = f"DWARF of {prog.main_module().debug_file_path}"
        except LookupError:
            source = "this session"
        return Target(prog, prog["UTS_RELEASE"].string_().decode(), source, True, notes, slim)
    live = bool(prog.flags & ProgramFlags.IS_LIVE and prog.flags & ProgramFlags.IS_LOCAL)
    spec = TargetSpec(core=path, kernel=live, default_symbols="none")
    try:
        return open_types(Memory(prog, path or "this kernel", notes, slim), spec)
    except UnknownLayout as error:
        raise TargetError(str(error)) from error


def _slim_note(path: str) -> str | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # it was opened from another directory, or has been removed since
        return None
    try:
        elf = read_elf(fd)
        note = None if elf is None else elf.note(SLIM_NOTE)
    finally:
        os.close(fd)
    return None if note is None else note[:_MAX_SLIM_NOTE].decode("utf-8", "backslashreplace")
