# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tasks, as drgn's own helper finds them; and lists of tasks and paths of cgroups that are torn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from drgn import offsetof
from drgn.helpers.linux.pid import find_task, for_each_task

from drgn_thp.cgroups import MAX_DEPTH, Container
from drgn_thp.processes import Processes, read_processes
from drgn_thp.target import open_target

from .opened import Opened, spec_of
from .overlay import Overlay

pytestmark = pytest.mark.vm


@pytest.fixture
def damaged(overlay: Overlay) -> Iterator[Overlay]:
    """A dump to be damaged."""
    overlay.mend()
    yield overlay
    overlay.mend()


def identities(processes: Processes) -> set[tuple[int, int, int, str, int]]:
    return {(task.address, task.pid, task.tgid, task.comm, task.mm) for task in processes.tasks}


def test_all_tasks(opened: Opened) -> None:
    """The list of tasks has what the ID allocator has."""
    processes = opened.context.processes
    assert not processes.failures
    assert identities(processes) == {
        (int(t), int(t.pid), int(t.tgid), t.comm.string_().decode(), int(t.mm)) for t in for_each_task(opened.prog)
    }
    pids = {mark.pid for mark in opened.dump.marks}
    assert pids <= set(processes.by_pid)
    users = {pid: processes.by_mm[processes.by_pid[pid].mm] for pid in pids}
    assert all(pid in {task.pid for task in users[pid]} for pid in pids)
    assert {task.cgroup for task in processes.tasks} == {"/"}
    marked = processes.by_pid[min(pids)]
    assert processes.command_line(marked) == "/init"
    assert processes.command_line(replace(marked, mm=0)) is None
    assert processes.command_line(replace(marked, mm=0x1234)) is None


def test_without_debugging_symbols(opened: Opened) -> None:
    """The types that the kernel itself carries do."""
    if opened.version < (6, 0):
        return  # its BTF cannot be had
    prog = open_target(replace(spec_of(opened.dump), symbols=(), default_symbols="none")).prog
    assert identities(read_processes(prog)) == identities(opened.context.processes)


def test_threads(damaged: Overlay) -> None:
    """A thread whose leader has left the address space stands for its group; and a ring of threads is left."""
    prog = damaged.prog
    before = read_processes(prog)
    groups: dict[int, list[int]] = {}
    for task in before.tasks:
        groups.setdefault(task.tgid, []).append(task.pid)
    task_type = prog.type("struct task_struct")
    one, other = (task for task in before.tasks if task.mm and len(groups[task.tgid]) == 1 and task.pid > 1), None
    leader = next(one)
    other = next(one)
    # Make the other task a thread of the first one's group, with another thread list than the kernel's ring.
    node = offsetof(task_type, "thread_node")
    damaged.write(other.address + offsetof(task_type, "tgid"), leader.pid.to_bytes(4, "little"))
    damaged.write_u64(other.address + offsetof(task_type, "mm"), leader.mm)
    damaged.write_u64(leader.address + offsetof(task_type, "mm"), 0)
    damaged.write_u64(leader.address + node, other.address + node)
    damaged.write_u64(other.address + node, leader.address + node)
    processes = read_processes(prog)
    assert [task.pid for task in processes.by_mm[leader.mm]] == [other.pid]
    assert processes.leader(processes.by_pid[other.pid]).pid == leader.pid
    assert len(processes.tasks) == len(before.tasks)
    assert any("no end" in failure for failure in processes.failures)


def test_torn_list(damaged: Overlay) -> None:
    """What lies behind the tear is reached from the other end; cycles end."""
    prog = damaged.prog
    before = read_processes(prog)
    leaders = [task for task in before.tasks if task.is_leader]
    tasks = offsetof(prog.type("struct task_struct"), "tasks")
    for pointer in (0, 0xDEAD000000000100, leaders[3].address + tasks):
        damaged.mend()
        damaged.write_u64(leaders[20].address + tasks, pointer)
        processes = read_processes(prog)
        assert len(processes.tasks) == len(before.tasks)
        assert len(processes.failures) == 1, processes.failures
    damaged.mend()
    damaged.write_u64(leaders[20].address + tasks, leaders[20].address + tasks)
    damaged.write_u64(leaders[30].address + tasks + 8, leaders[30].address + tasks)
    processes = read_processes(prog)
    assert {task.pid for task in leaders[:21]} <= set(processes.by_pid)
    assert {task.pid for task in leaders[30:]} <= set(processes.by_pid)
    assert not {task.pid for task in leaders[21:30]} & set(processes.by_pid)
    assert processes.failures


def test_paths_of_cgroups(damaged: Overlay) -> None:
    """A container, a path without end, a name without end, and nothing there at all."""
    prog = damaged.prog
    task = find_task(prog, next(mark.pid for mark in damaged.dump.marks))
    css_set = task.cgroups.read_()
    root = css_set.dfl_cgrp.kn.read_()
    node_type = prog.type("struct kernfs_node")
    parent = "__parent" if node_type.has_member("__parent") else "parent"
    # A page of the guest's that is ours to write on: the task's kernel stack.
    page = (int(task.stack.value_()) + 4096) & ~4095
    inner, outer, names = page, page + 512, page + 1024

    def link(node: int, name: int, above: int) -> None:
        damaged.write_u64(node + offsetof(node_type, "name"), name)
        damaged.write_u64(node + offsetof(node_type, parent), above)

    def cgroup() -> str | None:
        processes = read_processes(prog)
        assert bool(processes.failures) == (processes.by_pid[int(task.pid)].cgroup is None)
        return processes.by_pid[int(task.pid)].cgroup

    damaged.write_u64(css_set.dfl_cgrp.kn.address_, inner)
    damaged.write(names, b"docker-" + b"5" * 64 + b".scope\0" + b"a\x1b[2J\xff\0")
    link(inner, names, outer)
    link(outer, names + 78, int(root))
    path = cgroup()
    assert path == f"/a\x1b[2J\\xff/docker-{'5' * 64}.scope"
    assert read_processes(prog).by_pid[int(task.pid)].container == Container("docker", "5" * 64)
    damaged.write(names, b"x" * 2000)
    assert cgroup() == f"/{'x' * 255}/{'x' * 255}"
    link(outer, names, inner)
    assert cgroup() is None
    assert MAX_DEPTH < 1000
    link(inner, 0x10, outer)
    assert cgroup() is None
    damaged.write_u64(css_set.dfl_cgrp.kn.address_, 0xFFFFFFFFFFFFFFFF)
    assert cgroup() is None
