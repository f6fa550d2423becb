# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Who is who: the tasks of a target, read in one pass, by task, process ID and address space.

Process IDs are those of the initial namespace. Commands and paths are as the target has them: whoever shows them
escapes them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from drgn import FaultError, Object, Program, cast
from drgn.helpers.linux.mm import access_remote_vm

from .cgroups import Cgroups, Container, container_of
from .structs import U64, Struct, read_word

MAX_TASKS = 1 << 22
"""PID_MAX_LIMIT of the kernel: there cannot be more."""
MAX_COMMAND_LINE = 4096


@dataclass(frozen=True)
class Task:
    """
    A ``struct task_struct`` at ``address``.

    :ivar comm: The thread's own name
    :ivar mm: ``struct mm_struct *``; 0 of kernel threads, and of what has exited
    :ivar cgroup: Path in the unified hierarchy; where that says nothing, in the one of version 1 with the memory
        controller, or another; None if it could not be read
    """

    address: int
    pid: int
    tgid: int
    comm: str
    mm: int
    cgroup: str | None

    @property
    def is_leader(self) -> bool:
        return self.pid == self.tgid

    @property
    def container(self) -> Container | None:
        """What container the cgroup's name gives away."""
        return None if self.cgroup is None else container_of(self.cgroup)


@dataclass
class Processes:
    """
    All tasks that could be found.

    :ivar failures: What could not be read, in words
    """

    prog: Program
    tasks: list[Task]
    failures: list[str] = field(default_factory=list)

    @cached_property
    def by_address(self) -> dict[int, Task]:
        """Tasks by the address of their ``struct task_struct``."""
        return {task.address: task for task in self.tasks}

    @cached_property
    def by_pid(self) -> dict[int, Task]:
        """Tasks by process ID: that of the thread."""
        return {task.pid: task for task in self.tasks}

    @cached_property
    def by_mm(self) -> dict[int, list[Task]]:
        """
        One task of each thread group that uses an address space, by its ``struct mm_struct``.

        It is the group's leader, or where that has exited, another thread.
        """
        groups: dict[int, dict[int, Task]] = {}
        for task in self.tasks:
            if task.mm:
                group = groups.setdefault(task.mm, {})
                if task.is_leader or task.tgid not in group:
                    group[task.tgid] = task
        return {mm: list(group.values()) for mm, group in groups.items()}

    def leader(self, task: Task) -> Task:
        """Return the leader of a task's thread group, or the task where that is not found."""
        return self.by_pid.get(task.tgid, task)

    def command_line(self, task: Task) -> str | None:
        """
        Return the command line, its words parted by spaces; None if it cannot be read, as in dumps without user pages.

        The process may have changed it. At most 4096 bytes of it are read.
        """
        if not task.mm:
            return None
        try:
            mm = Struct(self.prog, "struct mm_struct", ("arg_start", "arg_end")).read(task.mm)
            size = min(mm["arg_end"] - mm["arg_start"], MAX_COMMAND_LINE)
            if size <= 0:
                return None
            object_ = cast("struct mm_struct *", Object(self.prog, "unsigned long", task.mm))
            data = access_remote_vm(object_, mm["arg_start"], size)
        except (FaultError, ValueError, OverflowError):
            return None
        return text(data.rstrip(b"\0").replace(b"\0", b" "))


def text(data: bytes) -> str:
    """Return what is meant to be UTF-8 as text, whatever it is."""
    return data.decode("utf-8", "backslashreplace")


def read_processes(prog: Program) -> Processes:
    """
    Read every task of a target but the idle ones.

    :raises UnknownLayout: if this kernel's types are not understood
    """
    return _Reader(prog).read()


class _Reader:
    def __init__(self, prog: Program) -> None:
        self.prog = prog
        self.task = Struct(
            prog,
            "struct task_struct",
            ("pid", "tgid", "comm", "mm", "cgroups", "signal", "tasks.next", "tasks.prev", "thread_node.next"),
        )
        self.signal = Struct(prog, "struct signal_struct", ("thread_head.next",))
        self.cgroups = Cgroups(prog)
        self.failures: list[str] = []
        self.seen: set[int] = set()
        self.found: list[Task] = []

    def read(self) -> Processes:
        try:
            init = self.prog.symbol("init_task").address
            first = self.task.read(init)
        except (LookupError, FaultError) as error:
            return Processes(self.prog, [], [f"init_task: {error}"])
        head = init + self.task.offset("tasks.next")
        self.seen.add(init)
        # Where the list is torn, its other end is reached from behind.
        if not self._leaders(head, first["tasks.next"], "tasks.next"):
            self._leaders(head, first["tasks.prev"], "tasks.prev")
        if self.cgroups.unreadable:
            self.failures.append(f"cgroups of {self.cgroups.unreadable} sets of tasks could not be read")
        return Processes(self.prog, self.found, self.failures)

    def _leaders(self, head: int, node: int, direction: str) -> bool:
        """Read the leaders of thread groups, and their threads; return whether the list came to its end."""
        offset = self.task.offset("tasks.next")
        while node != head:
            if direction == "tasks.prev" and node - offset in self.seen:
                return True  # the two ends have met
            leader = self._task(node - offset, "processes")
            if leader is None:
                return False
            try:
                self._threads(node - offset, leader["signal"], leader["thread_node.next"])
            except FaultError as error:
                self.failures.append(f"threads of process {leader['tgid']}: {error}")
            node = leader[direction]
        return True

    def _threads(self, leader: int, signal: int, behind_leader: int) -> None:
        """Read the other threads of a group: the leader is the first of its list, and if it is not, they all are."""
        offset = self.task.offset("thread_node.next")
        head = signal + self.signal.offset("thread_head.next")
        node = read_word(self.prog, head)
        if node == leader + offset:
            node = behind_leader
        while node != head:
            thread = self._task(node - offset, f"threads of the task at {leader:#x}")
            if thread is None:
                return
            node = thread["thread_node.next"]

    def _task(self, address: int, where: str) -> dict[str, int] | None:
        """Read a task, or say why it cannot be."""
        if address in self.seen or len(self.found) >= MAX_TASKS:
            self.failures.append(f"{where}: there is no end to them (the task at {address & U64:#x} comes again)")
            return None
        try:
            span = self.task.read_span(address)
        except FaultError as error:
            self.failures.append(f"{where}: {error}")
            return None
        values = self.task.decode(span)
        if not (0 < values["pid"] < MAX_TASKS and 0 < values["tgid"] < MAX_TASKS):
            self.failures.append(f"{where}: what is at {address & U64:#x} is no task")
            return None
        self.seen.add(address)
        comm = text(self.task.bytes_of(span, "comm").split(b"\0")[0])
        cgroup = self.cgroups.path(values["cgroups"])
        self.found.append(Task(address, values["pid"], values["tgid"], comm, values["mm"], cgroup))
        return values
