# SPDX-License-Identifier: LGPL-2.1-or-later
"""--qemu never waits without end, whatever listens on the socket."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from drgn import Program

from drgn_thp.errors import TargetError
from drgn_thp.target import TargetSpec, open_target, qmp

needs_qmp = pytest.mark.skipif(not hasattr(Program, "set_qemu_qmp"), reason="this drgn has no set_qemu_qmp()")


def fails(address: str, message: str) -> None:
    with pytest.raises(TargetError, match=message):
        open_target(TargetSpec(qemu=address))


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Listens, but does not speak: as QEMU to a second client."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(qmp, "GREETING_SECONDS", 0.2)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        listener.listen(1)
        yield listener


@needs_qmp
def test_second_client(server: socket.socket) -> None:
    fails("socket", "is another connected")


@needs_qmp
def test_something_else_listens(server: socket.socket) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect("socket")
        connection, _ = server.accept()
    connection.close()
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        fails(address, "is another connected")
        queued, _ = other.accept()
        queued.close()


@needs_qmp
def test_greeting_of_something_else(server: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair()
    monkeypatch.setattr(qmp, "_connect", lambda address: ours)
    theirs.sendall(b"220 mail ready\r\n")
    fails("socket", "no QMP socket")
    theirs.close()


@needs_qmp
def test_hangs_up(server: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair()
    monkeypatch.setattr(qmp, "_connect", lambda address: ours)
    theirs.close()
    fails("socket", "no QMP socket")


@needs_qmp
def test_nobody_listens(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    fails(str(tmp_path / "nothing"), "No such file")
    fails(str(tmp_path / "file"), "refused")
    fails(f"{tmp_path}/{'x' * 200}", "too long")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    fails(f"127.0.0.1:{port}", "refused")


def test_old_drgn(monkeypatch: pytest.MonkeyPatch) -> None:
    class Old:
        pass

    with pytest.raises(TargetError, match="cannot debug QEMU guests"):
        qmp.open_guest(Old(), "socket")
