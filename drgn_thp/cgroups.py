# SPDX-License-Identifier: LGPL-2.1-or-later
"""Paths of cgroups, and the container that a path gives away."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from drgn import FaultError, Program

from .layout import find_enumerator
from .structs import Struct, read_word

MAX_DEPTH = 256
"""cgroup.max.depth has no bound of its own; paths of more than 4096 bytes cannot be used."""
MAX_NAME = 255
# Of a hierarchy of version 1, the controller that says most about memory comes first.
_CONTROLLERS = ("memory_cgrp_id", "pids_cgrp_id", "cpu_cgrp_id", "devices_cgrp_id", "freezer_cgrp_id")

_ID = r"[0-9a-f]{64}"
_UUID = r"[0-9a-f]{8}(?:[-_]?[0-9a-f]{4}){3}[-_]?[0-9a-f]{12}|[0-9a-f]{32}"
# What the programs that make containers call their cgroups, with systemd and without.
_CONTAINERS = tuple(
    (kind, re.compile(pattern))
    for kind, pattern in (
        ("docker", rf"/docker[-/]({_ID})(?:\.scope)?(?=/|$)"),
        ("podman", rf"/libpod-({_ID})(?:\.scope)?(?=/|$)"),
        ("cri-o", rf"/crio-({_ID})(?:\.scope)?(?=/|$)"),
        ("containerd", rf"/cri-containerd-({_ID})(?:\.scope)?(?=/|$)"),
        ("kubernetes", rf"/kubepods(?=[./]).*/({_ID})(?=/|$)"),
        ("lxc", r"/lxc(?:\.payload)?[./]([^/]+)(?=/|$)"),
        ("nspawn", r"/machine\.slice/(?:systemd-nspawn@|machine-)([^/]+)\.(?:service|scope)(?=/|$)"),
    )
)
_POD = re.compile(rf"/(?:kubepods[^/]*-)?pod({_UUID})(?:\.slice)?(?=/|$)")


@dataclass(frozen=True)
class Container:
    """
    What a path says: a hint, as anybody may name a cgroup so.

    :ivar kind: ``docker``, ``podman``, ``cri-o``, ``containerd``, ``kubernetes``, ``lxc`` or ``nspawn``
    :ivar id: As the program that made it knows it: 64 hexadecimal digits, or a name
    :ivar pod: The UUID of the Kubernetes pod
    """

    kind: str
    id: str
    pod: str | None = None

    def __str__(self) -> str:
        name = self.id[:12] if len(self.id) == 64 else self.id
        return f"{self.kind}:{name}"


@lru_cache(maxsize=4096)
def container_of(path: str) -> Container | None:
    """Return the innermost container that a cgroup's path names."""
    best: tuple[int, Container] | None = None
    pod = None
    for match in _POD.finditer(path):
        pod = match[1].replace("_", "-")
    for kind, pattern in _CONTAINERS:
        for match in pattern.finditer(path):
            if best is None or match.start(1) > best[0]:
                best = match.start(1), Container(kind, match[1], pod)
    return None if best is None else best[1]


class Cgroups:
    """
    Paths of the cgroups that sets of tasks are in.

    :ivar unreadable: Sets of which none could be read
    """

    def __init__(self, prog: Program) -> None:
        self.prog = prog
        self.unreadable = 0
        self._set = Struct(prog, "struct css_set", ("dfl_cgrp", "subsys"))
        self._state = Struct(prog, "struct cgroup_subsys_state", ("cgroup",))
        self._cgroup = Struct(prog, "struct cgroup", ("kn", "root"))
        # 633488947ef6 ("kernfs: Use RCU to access kernfs_node::parent.") (in v6.15) renamed it.
        self._node = Struct(prog, "struct kernfs_node", ("name", ("__parent", "parent")))
        self._paths: dict[int, str | None] = {0: None}
        controllers = (find_enumerator(prog, name) for name in _CONTROLLERS)
        self._controllers = [number for number in controllers if number is not None]

    def path(self, css_set: int) -> str | None:
        """Return the path for a ``struct css_set *``; None, and counted, if it cannot be read."""
        if css_set not in self._paths:
            try:
                self._paths[css_set] = self._read(css_set)
            except FaultError:
                self.unreadable += 1
                self._paths[css_set] = None
        return self._paths[css_set]

    def _read(self, css_set: int) -> str:
        default = self._cgroup.read(read_word(self.prog, css_set + self._set.offset("dfl_cgrp")))
        path = self._node_path(default["kn"])
        if path != "/":
            return path
        # Nobody put it anywhere in the unified hierarchy: is there another, of version 1?
        for number in self._controllers:
            slot = css_set + self._set.offset("subsys") + 8 * number
            if 8 * number >= self._set.width("subsys"):
                continue
            state = read_word(self.prog, slot)
            if not state:
                continue
            other = self._cgroup.read(read_word(self.prog, state + self._state.offset("cgroup")))
            if other["root"] != default["root"]:
                path = self._node_path(other["kn"])
                if path != "/":
                    return path
        return "/"

    def _node_path(self, node: int) -> str:
        names: list[str] = []
        for _ in range(MAX_DEPTH):
            values = self._node.read(node)
            if not values["__parent"]:  # the root has no name
                return "/" + "/".join(reversed(names))
            name = self.prog.read_c_string(values["name"], max_size=MAX_NAME)
            names.append(name.decode("utf-8", "backslashreplace"))
            node = values["__parent"]
        raise FaultError("endless path of a cgroup", node)
