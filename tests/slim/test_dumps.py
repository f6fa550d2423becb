# SPDX-License-Identifier: LGPL-2.1-or-later
"""Slim cores of whole dumps of real kernels, and of a guest that runs: small, the same answers, no secrets."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
from drgn import Program
from drgn.helpers.linux.mm import for_each_memory_block
from drgn.helpers.linux.module import for_each_module

from drgn_thp.cli import main
from drgn_thp.slim import Made, make_slim
from drgn_thp.target import TargetSpec
from tests.vm import initramfs, kernels, workload
from tests.vm.booted import booted
from tests.vm.dumps import SIGNATURE
from tests.vm.elfcore import ElfCore
from tests.vm.guest import Guest
from tests.vm.lab import Dump, ensure_dump
from tests.vm.matrix import KERNELS, kernel

pytestmark = pytest.mark.vm

Record = dict[str, Any]
MAX_BYTES = 6_000_000


@dataclass
class Slim:
    """A dump, and its slim core."""

    dump: Dump
    path: Path
    packed: Path

    @cached_property
    def made(self) -> Made:
        return make_slim(self.spec, str(self.path))

    @property
    def has_btf(self) -> bool:
        return self.dump.kernel != "5.10"

    @property
    def spec(self) -> TargetSpec:
        return TargetSpec(core=str(self.dump.vmcore), symbols=(str(self.dump.vmlinux),), default_symbols="main")


@pytest.fixture(scope="module", params=KERNELS, ids=lambda entry: entry.name)
def slim(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Slim:
    directory = tmp_path_factory.mktemp("slim")
    result = Slim(ensure_dump(request.param), directory / "slim.elf", directory / "slim.elf.gz")
    assert not result.made.incomplete
    return result


def report(core: Path, capsys: pytest.CaptureFixture[str], *options: str) -> list[Record]:
    """Return all records, but for what says where they are from."""
    status = main(["report", "-c", str(core), *options, "--path", "all", "--format", "ndjson"])
    assert status in (0, 1)
    records: list[Record] = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for name in ("types", "notes"):
        del records[-1][name]
    return records


def test_is_small(slim: Slim) -> None:
    """Must show 3, first part."""
    made = make_slim(slim.spec, str(slim.packed))
    assert made.bytes == slim.packed.stat().st_size < MAX_BYTES
    assert made.pages["struct pages"] in range(4090, 4110)  # of 1 GiB
    assert bool(made.needs_symbols) == (not slim.has_btf)
    assert len(made.types) == 1 + slim.has_btf


def test_same_answers_folio_by_folio(slim: Slim, capsys: pytest.CaptureFixture[str]) -> None:
    """Must show 3, second part: with debugging symbols, and without where the dump could do without."""
    symbols = ["-s", str(slim.dump.vmlinux), "--main-symbols"]
    expected = report(slim.dump.vmcore, capsys, *symbols)
    assert len(expected) > 3000
    assert report(slim.path, capsys, *symbols) == expected
    if slim.has_btf:
        assert report(slim.path, capsys, "--no-default-symbols") == expected


def test_holds_no_contents_of_processes_and_files(slim: Slim) -> None:
    """
    Must show 3, third part: everything that the workload wrote into its pages, and into pages of files.

    Each of these pages begins with the name of its scenario, a process and a number.
    """
    names = "|".join(sorted(workload.scenarios("lab")))
    secret = re.compile(rf"(?:{names}) \d+ page \d+\0".encode())
    whole = ElfCore(slim.dump.vmcore)
    marked = {mark.scenario for mark in slim.dump.marks if mark.pfn in slim.dump.hotplug_pfns}
    seen = {name for name in marked if any(True for _ in _found(whole, name))}
    assert {"thp_cow", "base", "tmpfs_mapped", "ext4_dirty_mapped", "hugetlb"} <= seen
    data = slim.path.read_bytes()
    assert secret.findall(data) == []
    # Neither pages of pipes and sockets, which are the kernel's own.
    for name in ("pipe page", "socket page"):
        assert f"{name:<32}{SIGNATURE:>32}".encode() not in data


def _found(core: ElfCore, name: str) -> Any:
    pages = [int(mark) for mark in core.find(f"{name} ".encode())][:1]
    return iter(pages)


def test_holds_no_page_that_the_guest_calls_a_users(slim: Slim) -> None:
    """By the guest's own /proc/kpageflags: not one page on a list, of a process, of the swap cache or of hugetlb."""
    slab, bits = 1 << 7, (1 << 5) | (1 << 12) | (1 << 13) | (1 << 17)
    core = ElfCore(slim.path)
    held = 0
    for segment in core.segments:
        for pfn in range(segment.address >> 12, segment.address + segment.size >> 12):
            held += 1
            if pfn < len(slim.dump.kpageflags) and int(slim.dump.kpageflags[pfn]) != (1 << 64) - 1:
                flags = int(slim.dump.kpageflags[pfn])
                # 6.12 takes what slab keeps where mappings are for one, and says of slab pages that they are anonymous.
                assert flags & slab or not flags & bits, hex(pfn)
    assert held == sum(slim.made.pages.values())


def test_opens_in_plain_drgn_with_symbols(slim: Slim) -> None:
    """As a developer would open what is attached to a bug report."""
    prog = Program()
    prog.set_core_dump(slim.path)
    prog.load_debug_info([slim.dump.vmlinux])
    assert prog["init_uts_ns"].name.release.string_().decode() == slim.dump.release
    assert len(list(for_each_memory_block(prog))) > 4
    assert len({module.name.string_() for module in for_each_module(prog)}) > 2


def test_makedumpfile_takes_it(slim: Slim, tmp_path: Path) -> None:
    """From there, everything else that reads kdump files."""
    target = tmp_path / "vmcore.kdump"
    subprocess.run(["makedumpfile", "-c", "-d", "0", str(slim.path), str(target)], check=True, capture_output=True)
    prog = Program()
    prog.set_core_dump(target)
    assert prog["UTS_RELEASE"].string_().decode() == slim.dump.release


def test_from_a_kdump_file(slim: Slim, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What most people have: compressed, page by page."""
    kdump = tmp_path / "vmcore.kdump"
    subprocess.run(["makedumpfile", "-c", "-d", "0", str(slim.path), str(kdump)], check=True, capture_output=True)
    symbols = ["-s", str(slim.dump.vmlinux), "--main-symbols"]
    assert main(["slim", "-c", str(kdump), *symbols, "-o", str(tmp_path / "again.elf.gz")]) == 0
    capsys.readouterr()
    assert report(tmp_path / "again.elf.gz", capsys, *symbols) == report(slim.path, capsys, *symbols)


@pytest.mark.skipif(not hasattr(Program, "set_qemu_qmp"), reason="this drgn has no set_qemu_qmp()")
def test_from_a_running_guest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is written is what was analysed, though the guest goes on."""
    files = kernels.fetch(kernel("6.12"))
    image = initramfs.build(files, workload.build("lab"))
    with booted(lambda: Guest(files.vmlinuz, image)) as guest:
        out = tmp_path / "live.elf.gz"
        status = main(["slim", "--qemu", str(guest.drgn_socket), "--no-default-symbols", "-o", str(out)])
        said = capsys.readouterr()
    assert (status, said.err) == (0, "")
    assert out.stat().st_size < MAX_BYTES
    records = report(out, capsys, "--no-default-symbols")
    extra = [r for r in records if r["kind"] == "folio" and r["path"] == "contig" and r["reason"] == "extra-reference"]
    assert len(extra) >= 6
