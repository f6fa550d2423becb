# SPDX-License-Identifier: LGPL-2.1-or-later
"""Slim cores, made of the fixtures (which are some themselves), and their parts on plain numbers."""

from __future__ import annotations

import gzip
import io
import os
import random
import shutil
from pathlib import Path

import numpy
import pytest
from drgn import Architecture, FaultError, Platform, PlatformFlags, Program, ProgramFlags
from drgn.helpers.linux.mm import for_each_memory_block, pfn_to_page

from drgn_thp.cli import main
from drgn_thp.context import Context
from drgn_thp.errors import BadArgument, TargetError
from drgn_thp.slim import make_slim, making, output
from drgn_thp.slim.core import Layout, write_core
from drgn_thp.slim.guard import Guard
from drgn_thp.slim.pages import REGION_SHIFT, STRUCT_PAGES, STRUCTURES, SYMBOLS, Pages
from drgn_thp.slim.recorder import Recorder
from drgn_thp.target import TargetSpec, open_target
from drgn_thp.target.compressed import unpack
from drgn_thp.target.elf import read_elf

from .fixture import ALL, BUNDLED

FIXTURE = next(fixture for fixture in ALL if fixture.kernel == BUNDLED)
PAGE = 4096

needs_custom_programs = pytest.mark.skipif(
    not hasattr(Program, "set_linux_kernel_custom"), reason="this drgn cannot read memory through Python"
)


def spec(core: Path) -> TargetSpec:
    return TargetSpec(core=str(core), default_symbols="none")


def report(core: Path, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, list[str]]:
    """Return the status of a report, and its lines but for the summary."""
    status = main(["report", "-c", str(core), "--no-default-symbols", "--format", "ndjson", *options])
    return status, capsys.readouterr().out.splitlines()


# -- whole cores -------------------------------------------------------------------------------------------------------


@needs_custom_programs
def test_slim_of_a_slim_core_is_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing more can be left out, and nothing is missing."""
    path = tmp_path / "again.elf.gz"
    assert main(["slim", "-c", str(FIXTURE.core), "--no-default-symbols", "-o", str(path)]) == 0
    said = capsys.readouterr().out
    assert "struct pages\n" in said
    assert "verified: gives the same answers" in said
    assert list(tmp_path.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o600  # memory of a kernel is nobody else's business
    assert gzip.decompress(path.read_bytes()) == gzip.decompress(FIXTURE.core.read_bytes())


@needs_custom_programs
@pytest.mark.parametrize("module", ["any", *output._ZSTD_MODULES, "command"])
def test_zstd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    """Whatever there is to compress with; all of it must be in the file."""
    if module == "command":
        monkeypatch.setattr(output, "_ZSTD_MODULES", ())
        if shutil.which("zstd") is None:
            pytest.skip("no zstd command")
    elif module != "any":
        pytest.importorskip(module)
        monkeypatch.setattr(output, "_ZSTD_MODULES", (module,))
    path, data = tmp_path / "packed.elf.zst", b"\x7fELF" + random.Random(1).randbytes(3_000_000) + bytes(1_000_000)
    with output.compressing(str(path), str(path)) as sink:
        for at in range(0, len(data), 70_000):
            sink.write(data[at : at + 70_000])
    with open(path, "rb") as file:
        unpacked = unpack(file.fileno(), "zstd", str(path))
    with os.fdopen(unpacked, "rb") as file:
        file.seek(0)
        assert file.read() == data


@needs_custom_programs
def test_some_blocks_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What was left out is not recorded, which is not the same as damaged."""
    path = tmp_path / "one.elf"
    first = f"{FIXTURE.node1.start << 12:#x}"
    assert main(["slim", "-c", str(FIXTURE.core), "--no-default-symbols", "-o", str(path), "--block", first]) == 0
    capsys.readouterr()
    mine, theirs = (report(core, capsys, "--path", "all", "--block", first) for core in (path, FIXTURE.core))
    assert (mine[0], mine[1][:-1]) == (theirs[0], theirs[1][:-1])
    assert mine[0] == 1
    status, lines = report(path, capsys)
    assert status == 2
    assert "struct pages are not recorded in this slim core" in lines[-1]
    assert f"slim core: memory blocks {first} of Linux {FIXTURE.release}" in lines[-1]
    assert main(["folio", "-c", str(path), "--no-default-symbols", hex(FIXTURE.node1.stop - 5)]) == 3
    assert "its struct page is not recorded in this slim core" in capsys.readouterr().err
    with gzip.open(FIXTURE.core) as whole:
        assert path.stat().st_size < len(whole.read()) - 10_000_000


@needs_custom_programs
def test_opens_in_plain_drgn(tmp_path: Path) -> None:
    """It is a core like any other: physical addresses, the direct map, and drgn's own helpers on types from BTF."""
    path = tmp_path / "slim.elf"
    make_slim(spec(FIXTURE.core), str(path))
    prog = Program()
    prog.set_core_dump(path)
    assert prog.flags & ProgramFlags.IS_LINUX_KERNEL
    assert prog["UTS_RELEASE"].string_().decode() == FIXTURE.release
    helped = open_target(spec(path)).prog
    assert len(list(for_each_memory_block(helped))) > 4
    page = pfn_to_page(helped, FIXTURE.node1.start)
    direct = helped["page_offset_base"].value_()
    context = Context.of(helped)
    physical = context.virtual_to_pfn(int(page.value_())) << 12
    assert prog.read(direct + physical, PAGE) == prog.read(physical, PAGE, True)
    assert prog.read(physical, 64, True) == helped.read(int(page.value_()), 64)[:64]


@needs_custom_programs
def test_nothing_is_left_of_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither half a file nor one that lies; and what was there before stays."""
    path = tmp_path / "out.elf"
    path.write_bytes(b"precious")

    def fail(*arguments: object) -> str:
        raise TargetError("differs")

    monkeypatch.setattr(making, "_verify", fail)
    with pytest.raises(TargetError, match="differs"):
        make_slim(spec(FIXTURE.core), str(path))
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"precious"


@needs_custom_programs
def test_a_page_that_was_not_written_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison is worth something: without one page of the memmap, answers differ."""
    runs = Pages.runs

    held = min(FIXTURE.held())
    lost = FIXTURE.context.virtual_to_pfn(FIXTURE.context.memmap.page_address(held))

    def without_one(pages: Pages) -> list[tuple[int, int]]:
        return [
            part
            for first, end in runs(pages)
            for part in ([(first, lost), (lost + 1, end)] if first <= lost < end else [(first, end)])
            if part[0] < part[1]
        ]

    path = tmp_path / "out.elf"
    # The guard also asks for runs, but before.
    monkeypatch.setattr(making, "_drop_users", lambda recorder: None)
    monkeypatch.setattr(Pages, "runs", without_one)
    with pytest.raises(TargetError, match=r"was removed: memory at [0-9a-fx-]+ differs"):
        make_slim(spec(FIXTURE.core), str(path))
    assert list(tmp_path.iterdir()) == []


def test_outputs_that_cannot_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Found out before the work, and above all before the source is lost."""
    core = tmp_path / "vmcore.elf.gz"
    shutil.copy(FIXTURE.core, core)
    (tmp_path / "link.elf.gz").symlink_to(core)
    os.mkfifo(tmp_path / "pipe.elf")
    for name in ("vmcore.elf.gz", "link.elf.gz", "pipe.elf", "slim", "slim.kdump", "nowhere/slim.elf"):
        assert main(["slim", "-c", str(core), "-o", str(tmp_path / name)]) == 3
        assert capsys.readouterr().err.count("\n") == 1
    assert core.read_bytes() == FIXTURE.core.read_bytes()
    with pytest.raises(BadArgument, match="must end in"):
        make_slim(spec(core), "out")


@needs_custom_programs
def test_no_such_blocks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.elf"
    arguments = ["slim", "-c", str(FIXTURE.core), "--no-default-symbols", "-o", str(out)]
    assert main([*arguments, "--block", "4000"]) == 3
    assert "no such memory block: 4000" in capsys.readouterr().err
    assert main([*arguments, "--block", "x"]) == 3
    assert list(tmp_path.iterdir()) == []


# -- what must not be in one -------------------------------------------------------------------------------------------


def test_guard_knows_users() -> None:
    """By the struct pages: everything of a process or a file, heads and tails, and nothing of the kernel's own."""
    fixture = FIXTURE
    guard = Guard(fixture.prog, fixture.context)
    kinds = {"kernel"}
    for mark in fixture.marks:
        found = guard.find_users(mark.pfn, mark.pfn + 1).tolist()
        assert found == ([] if mark.kind in kinds else [mark.pfn]), mark
    own = fixture.context.virtual_to_pfn(fixture.context.memmap.page_address(fixture.node1.start))
    assert guard.find_users(own, own + 100).tolist() == []
    free = FIXTURE.node1.stop - (1 << 10)  # the first page of a free block
    assert guard.find_users(free, free + 1).tolist() == [free]
    beyond = fixture.context.end_pfn + 7
    assert guard.find_users(beyond, beyond + 2).tolist() == [beyond, beyond + 1]


class FakeSource:
    """A target whose every page counts how often it was read."""

    platform = Platform(Architecture.X86_64, PlatformFlags.IS_64_BIT | PlatformFlags.IS_LITTLE_ENDIAN)

    def __init__(self, live: bool) -> None:
        self.flags = ProgramFlags.IS_LIVE if live else ProgramFlags(0)
        self.reads = 0

    def read(self, address: int, size: int, physical: bool) -> bytes:
        assert physical
        assert (address % PAGE, size % PAGE) == (0, 0)
        if address >= 1 << 30:
            raise FaultError("no memory", address)
        self.reads += 1
        return b"".join(bytes([address // PAGE + i & 0xFF, self.reads]) * (PAGE // 2) for i in range(size // PAGE))


def recorder_of(source: FakeSource, directory: Path) -> Recorder:
    return Recorder(source, PAGE, str(directory))


def test_recorder_refuses_users(tmp_path: Path) -> None:
    """A pointer into a process's page, in a damaged dump, must not bring it in: whatever part of a read it is."""
    with recorder_of(FakeSource(False), tmp_path) as recorder:
        recorder.find_users = lambda first, end: numpy.array([p for p in range(first, end) if p == 8])
        assert recorder._read(7 * PAGE + 5, 10, 0, True)[:1]
        for address, size in ((8 * PAGE, 8), (7 * PAGE + 4000, 200), (0, 20 * PAGE)):
            with pytest.raises(FaultError, match="not recorded"):
                recorder._read(address, size, 0, True)
        assert recorder.pages.runs() == [(7, 8)]
        assert recorder.refused == {8}
        recorder.find_users = None
        with pytest.raises(FaultError, match="no memory"):
            recorder._read(1 << 30, 8, 0, True)
        assert recorder.pages.runs() == [(7, 8)]


def test_live_pages_stay_as_first_read(tmp_path: Path) -> None:
    """A page that changes between analysis and writing would make a core that contradicts what was analysed."""
    source = FakeSource(True)
    with recorder_of(source, tmp_path) as recorder:
        first = recorder._read(5 * PAGE, 4, 0, True)
        many = recorder._read(3 * PAGE + 1, 4 * PAGE, 0, True)
        assert many[2 * PAGE - 1 : 2 * PAGE + 3] == first
        assert recorder._read(3 * PAGE + 1, 4 * PAGE, 0, True) == many
        assert recorder.read(3, 8)[1 : 1 + len(many)] == many
        assert recorder.pages.runs() == [(3, 8)]
        reads = source.reads
        recorder._read(6 * PAGE, 100, 0, True)
        assert source.reads == reads
        assert list(tmp_path.iterdir()) == []  # the copy has no name
        with pytest.raises(FaultError):
            recorder.read(100, 101)


# -- parts -------------------------------------------------------------------------------------------------------------


def test_pages_are_a_set() -> None:
    """Against a dictionary, with ranges across the edges of regions."""
    random.seed(1)
    pages = Pages()
    model: dict[int, int] = {}
    edge = 1 << REGION_SHIFT
    for _ in range(400):
        first = random.choice((0, edge - 20, 3 * edge - 40, 7 * edge)) + random.randrange(60)
        end = first + random.choice((1, 1, 3, 30))
        kind, overrule = random.choice((SYMBOLS, STRUCT_PAGES, STRUCTURES)), random.random() < 0.3
        assert pages.hold(first, end) == all(pfn in model for pfn in range(first, end))
        split = pages.split(first, end)
        assert [held for start, stop, held in split for _ in range(start, stop)] == [
            pfn in model for pfn in range(first, end)
        ]
        assert all(a[2] != b[2] and a[1] == b[0] for a, b in zip(split, split[1:]))
        pages.add(first, end, kind, overrule)
        for pfn in range(first, end):
            model[pfn] = kind if overrule else model.get(pfn, kind)
    assert [pfn for first, end in pages.runs() for pfn in range(first, end)] == sorted(model)
    assert all(a[1] < b[0] for a, b in zip(pages.runs(), pages.runs()[1:]))
    assert len(pages) == len(model)
    for kind, number in pages.counts().items():
        assert number == list(model.values()).count(kind)


def test_more_segments_than_the_header_can_count(tmp_path: Path) -> None:
    """Beyond 65534, their number is in the first section header (PN_XNUM)."""
    number = 66_000
    layout = Layout(FakeSource.platform, 16, 0xFFFF888000000000, (("VMCOREINFO", b"OSRELEASE=6\n"), ("drgn_thp", b"x")))
    runs = [(2 * i, 2 * i + 1) for i in range(number)]
    sink = io.BytesIO()
    write_core(sink, layout, runs, lambda first, end: first.to_bytes(16, "little"))
    path = tmp_path / "many"
    path.write_bytes(sink.getvalue())
    with open(path, "rb") as file:
        elf = read_elf(file.fileno())
        assert elf is not None
        assert len(elf.segments) == number + 1
        assert elf.missing_bytes() == 0
        assert elf.note("drgn_thp") == b"x"
        last = elf.segments[-1]
        assert os.pread(file.fileno(), 16, last.offset) == (2 * number - 2).to_bytes(16, "little")
