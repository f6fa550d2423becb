# SPDX-License-Identifier: LGPL-2.1-or-later
"""A real drgn session at a terminal, typed into and read as by a person."""

from __future__ import annotations

import fcntl
import gzip
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from types import TracebackType

from tests.fixture import Fixture

PROMPT = b">>> "
TIMEOUT = 60
LINES, COLUMNS = 50, 220


def unpacked(fixture: Fixture, directory: Path) -> Path:
    """Return the core of a fixture as drgn itself opens it: not compressed."""
    path = directory / "vmcore"
    with gzip.open(fixture.core) as packed, path.open("wb") as file:
        shutil.copyfileobj(packed, file)
    return path


def _heed_ctrl_c() -> None:
    """What a shell starts in the background ignores it, and so does all that is started from there."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Terminal:
    """
    A drgn session on a core.

    :ivar banner: What it said before the first prompt
    """

    def __init__(self, core: Path, *options: str) -> None:
        environment = {
            **{
                name: value
                for name, value in os.environ.items()
                if not name.startswith(("DRGN", "DEBUGINFOD", "PYTHON"))
            },
            "TERM": "dumb",
            "PYTHON_BASIC_REPL": "1",
            "COLUMNS": "100",
            "XDG_STATE_HOME": str(core.parent),
            "HOME": str(core.parent),
        }
        command = [sys.executable, "-m", "drgn", "-c", core.name, "--no-default-symbols", *options]
        self._fd, theirs = pty.openpty()
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
        self._process = subprocess.Popen(
            command,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=core.parent,
            env=environment,
            start_new_session=True,
            preexec_fn=_heed_ctrl_c,
        )
        os.close(theirs)
        self.banner = self._read()

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._fd)

    def type(self, line: str) -> str:
        """Type a line, and return what comes before the next prompt, without the echo of the line."""
        os.write(self._fd, line.encode() + b"\n")
        echo, _, answer = self._read().partition("\n")
        assert echo == line, f"typed {line!r}, the terminal shows {echo!r}"
        return answer

    def _read(self) -> str:
        data = b""
        end = time.monotonic() + TIMEOUT
        while not re.search(rb"(?:^|\n)" + PROMPT + rb"\Z", data):
            ready, _, _ = select.select([self._fd], [], [], max(end - time.monotonic(), 0))
            if not ready:
                raise TimeoutError(f"no prompt after {TIMEOUT} s, but {data!r}")
            try:
                data += os.read(self._fd, 1 << 16)
            except OSError:
                raise EOFError(f"drgn ended: {data.decode(errors='replace')}") from None
        text = data[: -len(PROMPT)].decode().replace("\r\n", "\n")
        # The bell, and what some terminals are told before a line is typed.
        return re.sub(r"\x1b\[[?0-9;]*[a-zA-Z]|\x07", "", text)
