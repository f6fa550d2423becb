# SPDX-License-Identifier: LGPL-2.1-or-later
"""Boot a guest under emulation, talk to it, and dump its memory."""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from .elfcore import ElfCore

# Plenty on an idle machine, where a guest takes less than 10 s; not too short on a busy one.
BOOT_SECONDS = 300.0
SPARSE_BLOCK = 1 << 16

KERNEL_ARGUMENTS = (
    "console=ttyS0",
    "quiet",
    "panic=-1",
    # On a busy machine the timer that it tries at boot may be late, and it goes no further.
    "no_timer_check",
    # All of the hot-plugged memory becomes ZONE_MOVABLE.
    "memhp_default_state=online_movable",
    "secretmem.enable=1",
    # The workload turns them on, after it has told khugepaged to sleep.
    "transparent_hugepage=never",
    "rootfstype=ramfs",
)


class GuestError(Exception):
    """The guest did not do what it was meant to. The message holds the end of its console."""


class Qmp:
    """A connection to the monitor of the emulator."""

    def __init__(self, path: Path, timeout: float = BOOT_SECONDS) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(timeout)
        self._socket.connect(str(path))
        self._file = self._socket.makefile("rw")
        self._file.readline()  # the greeting
        self("qmp_capabilities")

    def __call__(self, command: str, **arguments: object) -> Any:
        """Run a command, and return what it answers."""
        self._file.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self._file.flush()
        # Events may come before the answer.
        for line in self._file:
            answer = json.loads(line)
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise GuestError(f"{command}: {answer['error']['desc']}")
        raise GuestError(f"{command}: the emulator went away")

    def close(self) -> None:
        """Hang up."""
        self._file.close()
        self._socket.close()


class Guest:
    """
    A running guest: node 0 is its boot memory, node 1 is hot-plugged by virtio-mem and movable.

    :ivar drgn_socket: A second monitor, for drgn: a monitor serves one client only.
    :ivar agent_socket: The second serial port, which the workload answers on, if asked for.
    """

    def __init__(
        self,
        vmlinuz: Path,
        initramfs: bytes,
        memory_mib: int = 448,
        hotplug_mib: int = 512,
        agent: bool = False,
        arguments: Sequence[str] = (),
        devices: Sequence[str] = (),
        state: Path | None = None,
        plugged_mib: int | None = None,
        cpus: int = 2,
    ) -> None:
        """
        :param arguments: For the kernel
        :param devices: More arguments for the emulator
        :param plugged_mib: How much of the hot-pluggable memory to give to the guest, if not all
        :param state: Do not boot, but go on from where :meth:`save` left a guest that was made in the same way
        """
        # Not in the cache: the path of a socket must be short.
        self._scratch = tempfile.TemporaryDirectory(prefix="lab.")
        directory = Path(self._scratch.name)
        self.drgn_socket = directory / "drgn"
        self.agent_socket = directory / "agent"
        self._serial = directory / "serial"
        self._errors = directory / "errors"
        (directory / "initramfs").write_bytes(initramfs)
        # With more than two in threads of their own, some do not see in time how the kernel changes its own code: 7.3
        # then stops at an instruction that it has just written.
        threads = "multi" if cpus <= 2 else "single"
        command = ["qemu-system-x86_64", "-accel", f"tcg,thread={threads}", "-cpu", "max", "-smp", str(cpus)]
        # Its threads are named: which of them are CPUs.
        command += [
            "-name",
            "lab,debug-threads=on",
            "-nodefaults",
            "-display",
            "none",
            "-no-reboot",
            "-monitor",
            "none",
        ]
        command += ["-kernel", str(vmlinuz), "-initrd", str(directory / "initramfs")]
        plugged_mib = hotplug_mib if plugged_mib is None else plugged_mib
        # What the kernel does not know becomes part of the environment of pid 1.
        command += ["-append", " ".join((*KERNEL_ARGUMENTS, f"plugged_mib={plugged_mib}", *arguments))]
        command += ["-m", f"{memory_mib}M,slots=2,maxmem={memory_mib + hotplug_mib + 4096}M"]
        command += ["-object", f"memory-backend-ram,id=boot,size={memory_mib}M"]
        command += ["-numa", f"node,nodeid=0,cpus=0-{cpus - 1},memdev=boot", "-numa", "node,nodeid=1"]
        if hotplug_mib:
            command += ["-object", f"memory-backend-ram,id=hotplug,size={hotplug_mib}M"]
            device = f"virtio-mem-pci,id=vmem,memdev=hotplug,node=1,requested-size={plugged_mib}M"
            command += ["-device", device]
        # The kernel leaves its VMCOREINFO there, without which no dump can be opened.
        command += ["-device", "vmcoreinfo", "-serial", f"file:{self._serial}"]
        if agent:
            command += ["-serial", f"unix:{self.agent_socket},server=on,wait=off"]
        command += devices
        if state:
            command += ["-incoming", f"exec:cat {shlex.quote(str(state))}"]
        for path in (directory / "qmp", self.drgn_socket):
            command += ["-qmp", f"unix:{path},server=on,wait=off"]
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors)
        self._qmp_path = directory / "qmp"
        self._qmp: Qmp | None = None

    def __enter__(self) -> Guest:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._qmp:
            self._qmp.close()
        self._process.kill()
        self._process.wait()
        self._scratch.cleanup()

    def ran(self) -> float:
        """
        Return for how many seconds the guest has run: schedstat of the emulator's threads, added up.

        What is given a guest in this measure it gets, however busy this machine is.
        """
        total = 0
        for task in Path(f"/proc/{self._process.pid}/task").iterdir():
            with suppress(FileNotFoundError, ProcessLookupError):  # it has ended
                total += int((task / "schedstat").read_text().split()[0])
        return total / 1e9

    def wants_to_run(self) -> bool:
        """
        Return whether any of its CPUs runs or would like to: for how long it has, is only known afterwards.

        It may be the emulator that it waits for: a device, which is another thread of that, or this machine's disk.
        """
        for task in Path(f"/proc/{self._process.pid}/task").iterdir():
            with suppress(FileNotFoundError, ProcessLookupError):
                if (task / "stat").read_text().rpartition(") ")[2][0] in "RD":
                    return True
        return False

    def serial(self) -> str:
        """Return what the guest has printed on its console so far."""
        try:
            return self._serial.read_bytes().decode(errors="replace").replace("\r", "")
        except FileNotFoundError:
            return ""

    def wait_for(self, line: str, timeout: float = BOOT_SECONDS) -> None:
        """
        Wait until the guest prints a line.

        :raises GuestError: if it does not, in time
        """
        deadline = time.monotonic() + timeout
        while line not in self.serial().splitlines():
            status = self._process.poll()
            if status is not None:
                raise self._error(f"the emulator ended with status {status}: {self._errors.read_text()}")
            if time.monotonic() > deadline:
                raise self._error(f"the guest did not print {line!r} within {timeout:.0f} s")
            time.sleep(0.1)

    def _error(self, what: str) -> GuestError:
        tail = "\n".join(self.serial().splitlines()[-40:])
        return GuestError(f"{what}\nend of the console:\n{tail}")

    @property
    def qmp(self) -> Qmp:
        """The monitor."""
        if not self._qmp:
            deadline = time.monotonic() + BOOT_SECONDS
            while not self._qmp:
                try:
                    self._qmp = Qmp(self._qmp_path)
                except OSError:
                    # The emulator has not got that far yet.
                    if self._process.poll() is not None or time.monotonic() > deadline:
                        raise
                    time.sleep(0.01)
        return self._qmp

    def save(self, path: Path) -> None:
        """
        Write the state of the machine to a file, from which it can go on any number of times.

        :raises GuestError: if that fails
        """
        # Unlimited: by default it is made for networks.
        self.qmp("migrate-set-parameters", **{"max-bandwidth": 0})
        self.qmp("migrate", uri=f"exec:cat > {shlex.quote(str(path))}")
        self._wait_for_migration("completed")

    def resume(self) -> None:
        """Let a guest that was restored go on."""
        self._wait_for_migration("completed")
        self.qmp("cont")

    def _wait_for_migration(self, wanted: str) -> None:
        deadline = time.monotonic() + BOOT_SECONDS
        while (status := self.qmp("query-migrate").get("status")) != wanted:
            if status in ("failed", "cancelled") or time.monotonic() > deadline:
                raise self._error(f"saving or restoring the guest: {status}: {self._errors.read_text()}")
            time.sleep(0.02)

    def dump(self, path: Path) -> None:
        """
        Stop the guest for good, and write all of its memory to a sparse ELF file.

        :raises GuestError: if the dump has no VMCOREINFO
        """
        self.qmp("stop")
        # The emulator would write out every zero of an empty guest, so it writes to a pipe with a name.
        fifo = Path(self._scratch.name) / "dump"
        os.mkfifo(fifo)
        # Opened without waiting for each other: then neither side can hang if the other one fails.
        reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        keep = os.open(fifo, os.O_WRONLY)
        os.set_blocking(reader, True)
        copier = threading.Thread(target=_copy_sparse, args=(reader, path))
        copier.start()
        try:
            self.qmp("dump-guest-memory", paging=False, protocol=f"file:{fifo}")
        finally:
            os.close(keep)
            copier.join()
            fifo.unlink()
        if not ElfCore(path).vmcoreinfo():
            raise self._error("the dump has no VMCOREINFO: qemu_fw_cfg did not load in the guest?")


def _copy_sparse(source: int, target: Path) -> None:
    zeros = bytes(SPARSE_BLOCK)
    with open(source, "rb", buffering=1 << 20) as reader, target.open("wb") as writer:
        while block := reader.read(SPARSE_BLOCK):
            if block == zeros:
                writer.seek(SPARSE_BLOCK, os.SEEK_CUR)
            else:
                writer.write(block)
        writer.truncate()
