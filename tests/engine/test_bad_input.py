# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What people get wrong gets one line that says what, and a status; no traceback, and no half answer that looks whole.

Through the command, in a process of its own, as they would run it; where many ways to be wrong meet the same code, one
of them is, and the others share a process, as a core takes a second to open.
"""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Callable

import pytest
from drgn import Program

from drgn_thp.cli import main
from drgn_thp.target import Target, open_target
from tests.vm.dumps import Dump
from tests.vm.lab import ensure_dump
from tests.vm.matrix import KERNELS, Kernel

from .opened import arguments_of, spec_of
from .tinycore import tiny_core

ROOT = Path(__file__).parents[2]
FAILED, INCOMPLETE = 3, 2
SECONDS = 60
NOBODY = 65534


@dataclass(frozen=True)
class Ended:
    """How the command ended."""

    status: int
    stdout: str
    stderr: str

    def is_refused(self, *words: str, usage: bool = False) -> None:
        """Check that there is one line on stderr, which has all of the words, and nothing else."""
        lines = self.stderr.splitlines()
        if usage:
            assert lines[0].startswith("usage: drgn-thp"), self
            lines = lines[-1:]
        assert len(lines) == 1, self
        assert lines[0].startswith("drgn-thp" if usage else "drgn-thp: "), self
        assert len(lines[0]) > len("drgn-thp: ") + 10, self
        assert (self.status, self.stdout) == (FAILED, ""), self
        assert "Traceback" not in self.stderr
        assert "--debug shows where" not in self.stderr, "this was not foreseen"
        for word in words:
            assert word in self.stderr, (word, self)


def run(*arguments: object) -> Ended:
    """Run the command."""
    return run_python([sys.executable, "-m", "drgn_thp", *map(str, arguments)])


def run_python(command: Sequence[str], stdin: str = "") -> Ended:
    done = subprocess.run(
        command,
        cwd=ROOT,
        input=stdin,
        capture_output=True,
        text=True,
        errors="backslashreplace",
        timeout=SECONDS,
        env={**os.environ, "PYTHONWARNINGS": "error::ResourceWarning"},
    )
    return Ended(done.returncode, done.stdout, done.stderr)


Run = Callable[..., Ended]

# -- without a dump ----------------------------------------------------------------------------------------------------


def text_file(directory: Path) -> Path:
    path = directory / "notes.txt"
    path.write_text("this is not a core dump\n" * 100)
    return path


def empty_file(directory: Path) -> Path:
    path = directory / "empty"
    path.touch()
    return path


def plain_directory(directory: Path) -> Path:
    path = directory / "directory"
    path.mkdir()
    return path


def missing_file(directory: Path) -> Path:
    return directory / "missing"


def executable(directory: Path) -> Path:
    return Path(sys.executable).resolve()


def process_core(directory: Path) -> Path:
    path = directory / "core.1234"
    path.write_bytes(tiny_core())
    return path


def core_without_notes(directory: Path) -> Path:
    path = directory / "core.notes"
    path.write_bytes(tiny_core(notes=False))
    return path


def first_bytes_of_a_core(directory: Path) -> Path:
    path = directory / "core.cut"
    path.write_bytes(tiny_core()[:40])
    return path


def headers_of_nonsense(directory: Path) -> Path:
    path = directory / "core.nonsense"
    core = bytearray(tiny_core())
    core[32:40] = (1 << 63).to_bytes(8, "little")  # where the program headers are
    path.write_bytes(core)
    return path


def noise(directory: Path) -> Path:
    path = directory / "noise"
    path.write_bytes(bytes(range(256)) * 4096)
    return path


def compressed_text(directory: Path) -> Path:
    path = directory / "core.gz"
    path.write_bytes(gzip.compress(b"this is not a core dump\n" * 100))
    return path


def half_a_compressed_file(directory: Path) -> Path:
    path = directory / "half.gz"
    path.write_bytes(gzip.compress(tiny_core() * 50)[:60])
    return path


def kdump_header_only(directory: Path) -> Path:
    path = directory / "kdump"
    path.write_bytes(b"KDUMP   " + bytes(8192))
    return path


def flattened_header_only(directory: Path) -> Path:
    path = directory / "flat"
    path.write_bytes(b"makedumpfile" + bytes(8192))
    return path


NOT_CORES = (
    text_file,
    empty_file,
    plain_directory,
    missing_file,
    executable,
    process_core,
    core_without_notes,
    first_bytes_of_a_core,
    headers_of_nonsense,
    noise,
    compressed_text,
    half_a_compressed_file,
    kdump_header_only,
    flattened_header_only,
)


@pytest.mark.parametrize("make", NOT_CORES, ids=lambda make: make.__name__)
def test_not_a_core(make: Callable[[Path], Path], tmp_path: Path) -> None:
    """Whatever the file is, the line names it."""
    path = make(tmp_path)
    run("report", "-c", path).is_refused(str(path))


def test_not_a_core_asked_about_a_folio(tmp_path: Path) -> None:
    """Each subcommand opens the target by itself."""
    path = text_file(tmp_path)
    run("folio", "-c", path, "5").is_refused(str(path))


def test_not_a_core_but_a_pipe() -> None:
    """``zcat core.gz | drgn-thp report -c /dev/stdin``: cannot be read from the middle."""
    run_python([sys.executable, "-m", "drgn_thp", "report", "-c", "/dev/stdin"], stdin="no core\n" * 10000).is_refused(
        "/dev/stdin"
    )


def test_hostile_file_name(tmp_path: Path) -> None:
    """A file name may hold anything: the line stays one line, and the terminal as it is."""
    path = tmp_path / "a\nb\x1b[31m\udcff"
    path.write_text("no core")
    ended = run("report", "-c", path)
    ended.is_refused("[31m")
    assert "\x1b" not in ended.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["report"],
        ["report", "-c", "core", "-k"],
        ["report", "-c", "core", "--path", "sideways"],
        ["report", "-c", "core", "--only", "no-such-reason"],
        ["report", "-c", "core", "--format", "xml"],
        ["report", "-c", "core", "--racy-check", "middle-aged"],
        ["report", "-c", "core", "--limit", "many"],
        ["folio", "-c", "core"],
        ["frobnicate"],
        [],
        ["report", "-c", "core", "surplus"],
    ],
    ids=" ".join,
)
def test_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """What argparse finds has the status that everything has which could not run, not argparse's own."""
    status = main(arguments)
    Ended(status, *capsys.readouterr()).is_refused(usage=True)


def test_usage_of_the_program() -> None:
    """The same in a process of its own."""
    run("report", "-c", "core", "--path", "sideways").is_refused("sideways", usage=True)


def test_no_guest_behind_the_address(tmp_path: Path) -> None:
    """Nothing there, and something that is no socket; drgn before 0.2 has no guests at all."""
    knows_guests = hasattr(Program, "set_qemu_qmp")
    for address in (tmp_path / "missing", text_file(tmp_path)):
        run("report", "--qemu", address).is_refused(str(address) if knows_guests else "needs drgn 0.2")


def test_help_is_no_failure(capsys: pytest.CaptureFixture[str]) -> None:
    """Asked for, it is an answer."""
    for arguments in (["--help"], ["report", "--help"], ["folio", "--help"]):
        ended = Ended(main(arguments), *capsys.readouterr())
        assert (ended.status, ended.stderr) == (0, "")
        assert ended.stdout.startswith("usage: drgn-thp")


# Imports everything before it gives up its rights: afterwards it may not be able to read the program itself.
AS_NOBODY = f"""
import contextlib, importlib, io, locale, os, pkgutil, sys
import drgn_thp
for module in pkgutil.walk_packages(drgn_thp.__path__, "drgn_thp."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
import drgn.helpers.linux, tqdm.auto
from drgn_thp.cli import main
# What is imported later may lie where nobody can read: whatever building the parser needs is fetched by building it.
with contextlib.redirect_stdout(io.StringIO()):
    main(["report", "--help"])
os.setgroups([])
os.setgid({NOBODY})
os.setuid({NOBODY})
sys.exit(main(sys.argv[1:]))
"""


def run_without_rights(*arguments: object) -> Ended:
    """Run the command as a user who may read nothing."""
    if os.getuid():
        return run(*arguments)
    return run_python([sys.executable, "-c", AS_NOBODY, *map(str, arguments)])


def test_no_permission(tmp_path: Path) -> None:
    """A core of which one knows only that it is there."""
    path = tmp_path / "core"
    path.write_bytes(tiny_core())
    path.chmod(0)
    run_without_rights("report", "-c", path).is_refused(str(path), "Permission denied")


def test_no_permission_for_the_running_kernel() -> None:
    """The commonest mistake of all."""
    run_without_rights("report", "-k").is_refused("/proc/kcore")


BLOCKS = (
    "99",
    "99-120",
    "5-3",
    "-1",
    "32-",
    "thirty-two",
    "0x",
    "",
    "0x100000000-0x1",
    "0xfff000000000-0xffff00000000",
    "1e3",
    "1" * 5000,
    "32\x1b[31m",
)
PAGES = (
    "0x80000",  # between boot memory and what was plugged in
    "0xffffffffffff",
    "99999999999999999999999999",
    "1" * 5000,
    "0xffffffffffffffff",
    "virt:0xdead000000000000",
    "virt:0x10",
    "page:0x10",
    "page:0xffffffffffffffff",
    "phys:0xfffffffffffff000",
    "inode:5",
    "seven",
    "",
    ":",
    "pfn:",
    "pfn:-1",
    "1.5",
    "0x",
    "\x1b[31m",
)


# -- with a dump -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=KERNELS, ids=lambda entry: entry.name)
def dump(request: pytest.FixtureRequest) -> Dump:
    """Each kernel's dump; only its files are needed."""
    return ensure_dump(request.param)


@pytest.fixture(scope="module")
def newest() -> Dump:
    """One dump, where the kernel makes no difference."""
    return ensure_dump(KERNELS[-1])


def other_than(dump: Dump) -> Kernel:
    return next(entry for entry in KERNELS if entry.name != dump.kernel)


@pytest.mark.vm
def test_vmlinux_of_another_kernel(dump: Dump) -> None:
    """Types of another build decode to garbage that looks plausible; those in the dump itself are no excuse."""
    other = ensure_dump(other_than(dump)).vmlinux
    run("report", "-c", dump.vmcore, "-s", other, "--main-symbols").is_refused(str(other))


@pytest.mark.vm
def test_vmlinux_that_is_missing(dump: Dump, tmp_path: Path) -> None:
    """Asked for by name, it is not replaced by something else."""
    missing = tmp_path / "vmlinux"
    run("report", "-c", dump.vmcore, "-s", missing).is_refused(str(missing))


@pytest.mark.vm
@pytest.mark.parametrize("make", [text_file, empty_file, process_core], ids=lambda make: make.__name__)
def test_vmlinux_that_is_none(newest: Dump, make: Callable[[Path], Path], tmp_path: Path) -> None:
    """Files swapped, or a download that was cut off."""
    path = make(tmp_path)
    run("report", "-c", newest.vmcore, "-s", path).is_refused(str(path))


@pytest.mark.vm
def test_no_permission_for_vmlinux(newest: Dump, tmp_path: Path) -> None:
    """Distributions ship it readable by root only."""
    core, vmlinux = tmp_path / "core", tmp_path / "vmlinux"
    tmp_path.chmod(0o755)
    os.link(newest.vmcore, core) if same_device(newest.vmcore, tmp_path) else core.symlink_to(newest.vmcore)
    vmlinux.write_bytes(b"\x7fELF")
    vmlinux.chmod(0)
    ended = run_without_rights("report", "-c", core, "-s", vmlinux)
    ended.is_refused("Permission denied")


def same_device(one: Path, other: Path) -> bool:
    return one.stat().st_dev == other.stat().st_dev


def cut(dump: Dump, fraction: float, path: Path) -> Path:
    """Copy the beginning of a dump, holes as holes."""
    size = int(dump.vmcore.stat().st_size * fraction)
    source, target = os.open(dump.vmcore, os.O_RDONLY), os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        position = 0
        while position < size:
            start = os.lseek(source, position, os.SEEK_DATA)
            position = min(os.lseek(source, start, os.SEEK_HOLE), size)
            while start < position:
                start += os.copy_file_range(source, target, position - start, start, start)
        os.ftruncate(target, size)
    finally:
        os.close(source)
        os.close(target)
    return path


@pytest.mark.vm
@pytest.mark.parametrize("fraction", [0.3, 0.7])
def test_truncated_core(dump: Dump, fraction: float, tmp_path: Path) -> None:
    """
    A full disk. Either what is there is too little, or the answer is given, and says what is missing from it.

    In these dumps all struct pages lie in boot memory, the first half of the file: what a process had in hot-plugged
    memory may be cut off without a loss, and then the answer must be that of the whole dump.
    """
    path = cut(dump, fraction, tmp_path / "vmcore")
    question = ["--path", "contig", "--format", "ndjson", "--only", "extra-reference", "--only", "racy-pin-check"]
    ended = run("report", "-c", path, *arguments_of(dump)[2:], *question)
    if ended.status == FAILED:
        ended.is_refused(str(path), "cut off")
        return
    *records, summary = [json.loads(line) for line in ended.stdout.splitlines()]
    assert ended.stderr == ""
    assert any("is cut off" in line for line in summary["notes"] + summary["incomplete"]), summary
    missing = sum(record["unreadable_pages"] for record in records if record["kind"] == "block")
    assert missing == summary["unreadable_pages"]
    if ended.status == INCOMPLETE:
        assert summary["incomplete"], summary
        return
    assert (summary["incomplete"], missing) == ([], 0)
    whole = run("report", *arguments_of(dump), *question)
    assert ended.status == whole.status
    assert records == [json.loads(line) for line in whole.stdout.splitlines()[:-1]]


@pytest.fixture
def run_opened(newest: Dump, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command, in this process, on a target that is open already."""
    target = opened_once(newest)
    monkeypatch.setattr("drgn_thp.target.open_target", lambda spec: target)

    def run_here(*arguments: str) -> Ended:
        status = main([arguments[0], *arguments_of(newest), *arguments[1:]])
        return Ended(status, *capsys.readouterr())

    return run_here


@cache
def opened_once(dump: Dump) -> Target:
    return open_target(spec_of(dump))


@pytest.mark.vm
@pytest.mark.parametrize("block", BLOCKS)
def test_unknown_block(run_opened: Run, block: str) -> None:
    """Neither there, nor a block at all."""
    run_opened("report", f"--block={block}").is_refused("block")


@pytest.mark.vm
@pytest.mark.parametrize("page", PAGES)
def test_nonsense_page(run_opened: Run, page: str) -> None:
    """Every way to miss."""
    run_opened("folio", "--", page).is_refused()


@pytest.mark.vm
def test_unknown_block_and_nonsense_page(newest: Dump) -> None:
    """The same in a process of its own."""
    run("report", *arguments_of(newest), "--block", "99").is_refused("99")
    run("folio", *arguments_of(newest), "seven").is_refused("seven")


@pytest.mark.vm
def test_one_nonsense_page_among_others(newest: Dump) -> None:
    """The others are answered, and the status says that something is missing."""
    mark = newest.marks[0]
    ended = run("folio", *arguments_of(newest), hex(mark.pfn), "seven", "--format", "ndjson")
    assert ended.status == INCOMPLETE
    assert len(ended.stderr.splitlines()) == 1
    assert ended.stderr.startswith("drgn-thp: ")
    assert "seven" in ended.stderr
    assert {json.loads(line)["asked"] for line in ended.stdout.splitlines()} == {hex(mark.pfn)}


@pytest.mark.vm
def test_output_that_cannot_be_written(newest: Dump, tmp_path: Path) -> None:
    """A directory that is not there, a directory, a disk that is full."""
    for output in (tmp_path / "missing" / "report", tmp_path, "/dev/full"):
        run("report", *arguments_of(newest), "--block", "32", "--output", output).is_refused(str(output))


@pytest.mark.vm
def test_reader_that_has_seen_enough(newest: Dump) -> None:
    """``drgn-thp report ... | head -1``: no complaint about the pipe."""
    arguments = ["-m", "drgn_thp", "report", *arguments_of(newest), "--format", "ndjson", "--path", "all"]
    with subprocess.Popen(
        [sys.executable, *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith(b'{"schema"')
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(SECONDS) == INCOMPLETE
