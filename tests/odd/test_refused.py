# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What people hand over by mistake: the wrong file, half a file, a file for another kernel.

One line that says what is wrong, status 3, and no traceback, through the real command in a process of its own.
"""

from __future__ import annotations

import gzip
import random
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from drgn import Program

from drgn_thp.cli.common import FAILED, INCOMPLETE, REFUSALS
from tests.vm.lab import Dump, ensure_dump
from tests.vm.matrix import KERNELS, kernel

from .command import NO_SYMBOLS, Outcome, dwarf, one_line, report
from .conftest import Odd
from .cores import filtered

# Not that of 7.3, whose symbols drgn before 0.1 cannot read.
FIXTURE = Path(__file__).parents[1] / "fixtures" / "6.1" / "vmcore.elf.gz"
BLOCK = "0x100000000"  # the first of its hot-plugged memory: all of the memory takes four times as long


def check_refused(outcome: Outcome, *words: str) -> None:
    """Check that nothing was answered, and that the one line says why."""
    assert outcome.status == FAILED, outcome.errors
    assert outcome.records == ()
    message = one_line(outcome.errors)
    for word in words:
        assert word in message, message


# -- compressed cores --------------------------------------------------------------------------------------------------


def zstd(data: bytes) -> bytes:
    if shutil.which("zstd") is None:
        pytest.skip("no zstd command to compress with")
    return subprocess.run(["zstd", "-q", "--stdout", "-1"], input=data, stdout=subprocess.PIPE, check=True).stdout


@pytest.fixture(scope="module", params=["gz", "zst"])
def compressed(request: pytest.FixtureRequest) -> tuple[str, bytes]:
    """A small core of a real kernel, and how it is compressed."""
    data = FIXTURE.read_bytes()
    return request.param, data if request.param == "gz" else zstd(gzip.decompress(data))


def test_whole_compressed_core_is_no_error(compressed: tuple[str, bytes], tmp_path: Path) -> None:
    """Else the errors below might be those of any compressed core."""
    path = tmp_path / f"vmcore.{compressed[0]}"
    path.write_bytes(compressed[1])
    outcome = report(path, *NO_SYMBOLS, "--block", BLOCK)
    assert not outcome.errors
    assert len(outcome.blocks) == 1
    assert outcome.incomplete == ""


@pytest.mark.parametrize("part", [0.001, 0.3, 0.99])
def test_truncated_compressed_core(compressed: tuple[str, bytes], tmp_path: Path, part: float) -> None:
    """The usual accident on the way to a bug report."""
    form, data = compressed
    path = tmp_path / f"vmcore.{form}"
    path.write_bytes(data[: int(len(data) * part)])
    check_refused(report(path, *NO_SYMBOLS), str(path), "cut off")


def test_damaged_compressed_core(compressed: tuple[str, bytes], tmp_path: Path) -> None:
    """Both formats have checksums; what does not match them is not analysed."""
    form, data = compressed
    damaged = bytearray(data)
    for i in random.Random(0).sample(range(len(data) // 4, len(data) // 2), 16):
        damaged[i] ^= 0xFF
    path = tmp_path / f"vmcore.{form}"
    path.write_bytes(damaged)
    check_refused(report(path, *NO_SYMBOLS), str(path), "damaged")


@pytest.mark.parametrize("contents", [b"", b"no core\n" * 100, b"\x7fELF", b"KDUMP   " + bytes(8192)], ids=len)
def test_no_core_at_all(tmp_path: Path, contents: bytes) -> None:
    """A log, an empty file, the first bytes of one that the disk had no room for."""
    path = tmp_path / "vmcore"
    path.write_bytes(contents)
    check_refused(report(path, *NO_SYMBOLS), str(path))


# -- types of another kernel -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Btf:
    """A dump, and files with the BTF of its kernel and of another one."""

    dump: Dump
    own: Path
    other: Path


@pytest.fixture(scope="module")
def btf(tmp_path_factory: pytest.TempPathFactory) -> Btf:
    directory = tmp_path_factory.mktemp("btf")
    paths = []
    for name in ("6.12", "7.3"):
        dump = ensure_dump(kernel(name))
        prog = Program()
        prog.set_core_dump(str(dump.vmcore))
        prog.load_debug_info([str(dump.vmlinux)])
        start, stop = (prog.symbol(symbol).address for symbol in ("__start_BTF", "__stop_BTF"))
        path = directory / name
        path.write_bytes(prog.read(start, stop - start))
        paths.append(path)
    return Btf(ensure_dump(kernel("6.12")), *paths)


@pytest.mark.vm
def test_right_btf_is_no_error(btf: Btf) -> None:
    """Else the refusals below might be those of any file."""
    outcome = report(btf.dump.vmcore, "--btf", str(btf.own), "--block", "32")
    assert not outcome.errors
    assert outcome.incomplete == ""


@pytest.mark.vm
def test_btf_of_another_kernel(btf: Btf) -> None:
    """It decodes to numbers that look plausible."""
    check_refused(report(btf.dump.vmcore, "--btf", str(btf.other)), str(btf.other))


@pytest.mark.vm
@pytest.mark.parametrize("keep", [0, 10, 24, 5000, 3000000])
def test_truncated_btf(btf: Btf, tmp_path: Path, keep: int) -> None:
    """Cut in its header, its types and its strings."""
    path = tmp_path / "btf"
    path.write_bytes(btf.own.read_bytes()[:keep])
    check_refused(report(btf.dump.vmcore, "--btf", str(path)), str(path))


@pytest.mark.vm
@pytest.mark.parametrize("seed", range(4))
def test_damaged_btf(btf: Btf, tmp_path: Path, seed: int) -> None:
    """A hundred bytes of its types: they no longer fit together, or not what the kernel says of its own in the core."""
    data = bytearray(btf.own.read_bytes())
    rng = random.Random(seed)
    for _ in range(100):
        data[rng.randrange(24, len(data) // 2)] = rng.randrange(256)
    path = tmp_path / "btf"
    path.write_bytes(data)
    check_refused(report(btf.dump.vmcore, "--btf", str(path)), str(path))


@pytest.mark.vm
def test_vmlinux_of_another_kernel(btf: Btf) -> None:
    """The commonest mistake of all with debug packages."""
    other = ensure_dump(kernel("7.3")).vmlinux
    check_refused(report(btf.dump.vmcore, "-s", str(other), "--main-symbols"), str(other), "another kernel")


@pytest.mark.vm
def test_kernel_that_carries_no_types() -> None:
    """Kernels before 6.0 cannot do without a vmlinux, and must say so."""
    dump = ensure_dump(KERNELS[0])
    assert dump.kernel == "5.10"
    check_refused(report(dump.vmcore, *NO_SYMBOLS), dump.release, "vmlinux")


# -- filtered cores ----------------------------------------------------------------------------------------------------


@pytest.mark.vm
@pytest.mark.parametrize("part", [0.001, 0.5, 0.98])
def test_truncated_kdump(odd: Odd, tmp_path: Path, part: float) -> None:
    """
    makedumpfile on a full disk: what the beginning has may be answered, and the rest must be missed.

    libkdumpfile maps the file: reading what was the table of pages would end the process by a signal.
    """
    odd.core.mend()
    path = filtered(odd.core, tmp_path / "kdump", "-l", "-d", "31")
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(int(size * part))
    outcome = report(path, *dwarf(odd.dump))
    if outcome.status == FAILED:
        check_refused(outcome, *([str(path), "cut off"] if part < 0.1 else []))
    else:
        assert outcome.status == (INCOMPLETE if outcome.incomplete else REFUSALS)
        assert any("is cut off" in note for note in outcome.summary["notes"])
