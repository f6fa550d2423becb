# SPDX-License-Identifier: LGPL-2.1-or-later
"""The tasks of a target, with what leads from a holder to its process."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

from drgn import FaultError, Program
from drgn.helpers.linux.pid import for_each_task

MAX_TASKS = 1 << 22  # PID_MAX_LIMIT


@dataclass(frozen=True)
class Task:
    """One thread. Addresses are 0 where it has none."""

    address: int
    pid: int
    tgid: int
    comm: str
    files: int
    mm: int
    stack: int


@dataclass(frozen=True)
class Tasks:
    """All of them, by address, and what could not be read."""

    by_address: dict[int, Task]
    failures: tuple[str, ...] = ()


def read_tasks(prog: Program) -> Tasks:
    """Read every task."""
    type_ = prog.type("struct task_struct")
    at = {name: type_.member(name).bit_offset // 8 for name in ("pid", "tgid", "files", "mm", "stack", "comm")}
    length = int(type_.member("comm").type.length or 16)
    found: dict[int, Task] = {}
    failures: list[str] = []
    read_u64, read_u32 = prog.read_u64, prog.read_u32
    try:
        for task in islice(for_each_task(prog), MAX_TASKS):
            address = int(task.value_())
            if address in found:
                failures.append("list of tasks: it does not end")
                break
            try:
                found[address] = Task(
                    address,
                    read_u32(address + at["pid"]),
                    read_u32(address + at["tgid"]),
                    prog.read_c_string(address + at["comm"], max_size=length).decode("utf-8", "backslashreplace"),
                    read_u64(address + at["files"]),
                    read_u64(address + at["mm"]),
                    read_u64(address + at["stack"]),
                )
            except FaultError as error:
                failures.append(f"task {address:#x}: {error}")
    except FaultError as error:
        failures.append(f"list of tasks: {error}")
    return Tasks(found, tuple(failures))
