# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Go back to the very moment of a dump, as often as there are questions.

A guest that goes on from its saved state has the same pages, processes and addresses as the dump. So no question can
spoil the next one, and what the kernel answers is about the folios that are in the dump.
"""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType

from .dumps import Dump, start
from .guest import Guest, GuestError

# For what the agent does not put a limit to: the machine may be busy.
PATIENCE = 120.0


class Agent:
    """A guest that runs, and its agent (workload/agent.c)."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest
        self._buffer = b""
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(guest.agent_socket))

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def ask(self, command: str, timeout: float = PATIENCE) -> list[list[str]]:
        """
        Return the lines of the agent's answer, in words.

        :raises GuestError: if there is none in time, or it does not understand
        """
        self._socket.sendall(command.encode() + b"\n")
        deadline = time.monotonic() + timeout
        while not self._buffer.endswith((b"\n.\n", b"\n.\r\n")) and self._buffer not in (b".\n", b".\r\n"):
            self._socket.settimeout(max(deadline - time.monotonic(), 0.01))
            try:
                data = self._socket.recv(1 << 16)
            except TimeoutError:
                raise GuestError(f"no answer to {command[:60]!r}\n{self.guest.serial()[-2000:]}") from None
            if not data:
                raise GuestError(f"the guest went away at {command[:60]!r}\n{self.guest.serial()[-2000:]}")
            self._buffer += data
        lines = [line.split() for line in self._buffer.decode().splitlines()[:-1]]
        self._buffer = b""
        if any(line[:1] == ["ERROR"] for line in lines):
            raise GuestError(f"the agent does not understand {command[:60]!r}: {lines}")
        return lines


@dataclass
class Cost:
    """
    What guests that were rewound have cost, in this process.

    :ivar seconds: From start to end of each, added up
    :ivar ran: That their CPUs ran, added up: the same however busy this machine is
    """

    guests: int = 0
    seconds: float = 0.0
    ran: float = 0.0

    def since(self, before: Cost) -> Cost:
        """Return what has been added since."""
        return Cost(self.guests - before.guests, self.seconds - before.seconds, self.ran - before.ran)


COST = Cost()


class Rewound(Agent):
    """A guest that has gone on from the moment of a dump."""

    def __init__(self, dump: Dump) -> None:
        self._since = time.monotonic()
        guest = start(dump, dump.state)
        try:
            guest.resume()
            super().__init__(guest)
        except BaseException as error:
            guest.__exit__(type(error), error, None)
            raise

    def __enter__(self) -> Rewound:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
        COST.guests += 1
        with suppress(FileNotFoundError):  # the emulator has ended by itself
            COST.ran += self.guest.ran()
        self.guest.__exit__(kind, error, traceback)
        COST.seconds += time.monotonic() - self._since
