# SPDX-License-Identifier: LGPL-2.1-or-later
"""Connects to a QEMU guest in bounded time: QEMU serves one client at a time and lets a second one wait for ever."""

from __future__ import annotations

import re
import select
import socket

from drgn import Program

from ..errors import TargetError

GREETING_SECONDS = 5.0


def open_guest(prog: Program, address: str) -> None:
    """
    Set a Program to a QEMU guest.

    :raises TargetError: if nobody answers there as QEMU does, or this drgn cannot
    """
    if not hasattr(prog, "set_qemu_qmp"):
        raise TargetError("this version of drgn cannot debug QEMU guests: --qemu needs drgn 0.2 or newer")
    try:
        with _connect(address) as connection:
            _await_greeting(connection, address)
            prog.set_qemu_qmp(connection.detach())  # the Program closes it
    except OSError as error:
        raise TargetError(f"{address}: {error.strerror or error}") from error
    except ValueError as error:
        raise TargetError(f"{address}: {' '.join(str(error).split())}") from error


def _connect(address: str) -> socket.socket:
    # As drgn: what may be a host and a port is one, unless it looks like a path.
    match = re.fullmatch(r"(?![./])\[?([^\[\]]*)\]?:([1-9]\d{0,4})", address)
    if match is not None and int(match[2]) <= 65535:
        return socket.create_connection((match[1] or "localhost", int(match[2])), GREETING_SECONDS)
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(GREETING_SECONDS)
    try:
        connection.connect(address)
    except BaseException:
        connection.close()
        raise
    return connection


def _await_greeting(connection: socket.socket, address: str) -> None:
    """Look at QEMU's greeting, but leave it to drgn."""
    readable, _, _ = select.select([connection], [], [], GREETING_SECONDS)
    if not readable:
        raise TargetError(f"{address}: no answer; QEMU serves one client at a time, is another connected?")
    if not connection.recv(1, socket.MSG_PEEK).startswith(b"{"):
        raise TargetError(f"{address}: no QMP socket of QEMU")
    connection.settimeout(None)
