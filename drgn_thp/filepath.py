# SPDX-License-Identifier: LGPL-2.1-or-later
"""Paths of open files, as /proc shows them; whoever shows them escapes them."""

from __future__ import annotations

from drgn import FaultError, Program

from .structs import Struct

MAX_NAMES = 1024
MAX_NAME = 255


class FilePaths:
    """
    Paths of ``struct file``, each read once.

    :ivar unreadable: Files whose path could not be read
    """

    def __init__(self, prog: Program) -> None:
        self.prog = prog
        self.unreadable = 0
        self._file = Struct(prog, "struct file", ("f_path.dentry", "f_path.mnt"))
        self._dentry = Struct(prog, "struct dentry", ("d_parent", "d_name.name", "d_hash.pprev"))
        self._mount = Struct(prog, "struct mount", ("mnt", "mnt.mnt_root", "mnt_parent", "mnt_mountpoint"))
        self._known: dict[int, str | None] = {}

    def path(self, file: int) -> str | None:
        """Return the path of a ``struct file *``; None, and counted, if it cannot be read."""
        if file not in self._known:
            try:
                values = self._file.read(file)
                self._known[file] = self._path(values["f_path.dentry"], values["f_path.mnt"])
            except FaultError:
                self.unreadable += 1
                self._known[file] = None
        return self._known[file]

    def _path(self, dentry: int, mnt: int) -> str:
        names: list[str] = []
        address = mnt - self._mount.offset("mnt")
        mount = self._mount.read(address)
        deleted = False
        for step in range(MAX_NAMES):
            if dentry == mount["mnt.mnt_root"]:
                if mount["mnt_parent"] == address:
                    return "/" + "/".join(reversed(names)) + " (deleted)" * deleted
                dentry, address = mount["mnt_mountpoint"], mount["mnt_parent"]
                mount = self._mount.read(address)
                continue
            values = self._dentry.read(dentry)
            root = values["d_parent"] == dentry
            if step == 0:
                deleted = not values["d_hash.pprev"] and not root
            name = self.prog.read_c_string(values["d_name.name"], max_size=MAX_NAME).decode("utf-8", "backslashreplace")
            # Of what has no place in any tree, such as memfds, the dentry is its own parent.
            names.append(name.strip("/") if root else name)
            if root:
                return "/" + "/".join(reversed(names)) + " (deleted)" * deleted
            dentry = values["d_parent"]
        raise FaultError("endless path of a file", dentry)
