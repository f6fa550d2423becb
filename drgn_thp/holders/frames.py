# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What tasks are in the middle of: the live part of their kernel stacks, and of a few of them the frames.

The live part is all from the stack pointer of a task that does not run to the end of its stack. What lies before that
was left by calls that have returned.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy
from drgn import FaultError, Object, Program, StackFrame

from ..folios import Column
from .ground import Ground
from .model import Damaged
from .tasks import Task

KERNEL_ADDRESS = 1 << 63
# What compilers make of the name of a static function, if there is none of that name itself.
_SUFFIXES = (".isra.0", ".constprop.0", ".part.0")
MAX_FRAMES = 256
_STACK = 1 << 14  # of x86-64, if nothing says so
_TASK = "struct task_struct"


@dataclass(frozen=True)
class Live:
    """
    The live part of one stack.

    :ivar address: Of the first of the words
    :ivar sleeps: Whether it waits for something: what a task has that could go on right now changes meanwhile
    """

    task: Task
    address: int
    words: Column
    sleeps: bool


class LiveStacks:
    """The live part of the stack of every task, read when first asked for."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self._size = ground.size("union thread_union") if ground.has("union thread_union") else _STACK
        # 2f064a59a11f ("sched: Change task_struct::state") (in v5.14)
        self._state = next(name for name in ("__state", "state") if ground.has(_TASK, name))
        self._pointer = next((name for name in ("thread.sp", "thread.cpu_context.sp") if ground.has(_TASK, name)), "")
        self._all: list[Live] | None = None
        self._texts: tuple[Column, Column] | None = None

    @staticmethod
    def of(ground: Ground) -> LiveStacks:
        """Return those of a ground: walkers share them."""
        found = ground.shared.setdefault("live stacks", LiveStacks(ground))
        assert isinstance(found, LiveStacks)
        return found

    def all(self) -> list[Live]:
        """Return all of them; those that cannot be read are counted."""
        if self._all is None:
            found = []
            for task in self.ground.files.tasks.by_address.values():
                with self.ground.part(f"stack of {task.pid}"):
                    if task.stack:
                        found.append(self._read(task))
            self._all = found
        return self._all

    def _read(self, task: Task) -> Live:
        ground = self.ground
        end = task.stack + self._size
        running = ground.has(_TASK, "on_cpu") and ground.uint(_TASK, task.address, "on_cpu") != 0
        start = ground.pointer(_TASK, task.address, self._pointer) if self._pointer and not running else 0
        if not task.stack <= start < end:
            start = task.stack
        start &= ~7
        sleeps = not running and ground.uint(_TASK, task.address, self._state) != 0
        return Live(task, start, ground.words(start, (end - start) // 8), sleeps)

    def within(self, functions: Iterable[str]) -> list[Live]:
        """Return the stacks that have an address in one of some functions: of a call, or by chance."""
        ranges = sorted(_ranges(self.ground.prog, functions))
        if not ranges:
            return []
        stacks = self.all()
        if self._texts is None:
            low = min((s.address for s in self.ground.prog.symbols("_stext")), default=KERNEL_ADDRESS)
            texts: list[Column] = [numpy.zeros(0, numpy.uint64)]
            numbers: list[Column] = [numpy.zeros(0, numpy.int64)]
            for number, live in enumerate(stacks):
                texts.append(live.words[live.words >= numpy.uint64(low)])
                numbers.append(numpy.full(len(texts[-1]), number, numpy.int64))
            self._texts = numpy.concatenate(texts), numpy.concatenate(numbers)
        words, owners = self._texts
        starts, ends = (numpy.array(column, numpy.uint64) for column in zip(*ranges))
        place = numpy.searchsorted(starts, words, "right") - 1
        # What follows a call is in the function still, and behind its first byte.
        inside = (place >= 0) & (words > starts[place]) & (words <= ends[place])
        return [stacks[number] for number in numpy.unique(owners[inside]).tolist()]

    def trace(self, task: Task) -> list[StackFrame]:
        """
        Return the frames of a task that are the kernel's, innermost first.

        :raises Damaged: if it cannot be unwound
        """
        self.ground.step()
        try:
            trace = self.ground.prog.stack_trace(Object(self.ground.prog, f"{_TASK} *", task.address))
            frames: list[StackFrame] = []
            for frame in trace:
                if frame.pc < KERNEL_ADDRESS or len(frames) >= MAX_FRAMES:
                    break
                frames.append(frame)
        except (ValueError, LookupError, FaultError) as error:
            raise Damaged(f"it cannot be unwound: {error}") from None
        # Where there is only BTF, frames are guessed, and wrong. Who sleeps does so in a function that has variables.
        if not any(frame.locals() for frame in frames[:3]):
            raise Damaged("it cannot be unwound: nothing describes the functions that it is in")
        return frames


def variable(frame: StackFrame, names: Iterable[str]) -> Object | None:
    """
    Return the first of some variables of a frame that it has a value of; None if none is in scope, or all are lost.

    :raises Damaged: if nothing describes the variables of the function
    """
    for name in names:
        try:
            found = frame[name]
        except KeyError:
            continue
        if not found.absent_:
            return found
    if not frame.locals():
        raise Damaged(f"nothing describes the variables of {frame.name}()")
    return None


def _ranges(prog: Program, functions: Iterable[str]) -> Iterator[tuple[int, int]]:
    for name in functions:
        found = prog.symbols(name) or [symbol for suffix in _SUFFIXES for symbol in prog.symbols(name + suffix)]
        for symbol in found:
            yield symbol.address, symbol.address + symbol.size
