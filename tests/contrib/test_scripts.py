# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every script on every fixture: that it ends, and that it says what the program in the guest knows to be true."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path

import drgn
import pytest

from tests.fixture import ALL, Fixture
from tests.tree import ROOT

SCRIPTS = ROOT / "contrib-scripts"
NAMES = sorted(path.name for path in SCRIPTS.glob("*.py"))
MAX_LINES = 80


class Runner:
    """Runs scripts as drgn does, but in this process, which has the fixture open already."""

    def __init__(self, fixture: Fixture, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.fixture = fixture
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, script: str, *arguments: str, incomplete: bool = False) -> str:
        self._monkeypatch.setattr(sys, "argv", [script, *arguments])
        drgn.set_default_prog(self.fixture.prog)
        try:
            runpy.run_path(str(SCRIPTS / script), {"prog": self.fixture.prog}, "__main__")
        finally:
            drgn.set_default_prog(None)
        out, err = self._capsys.readouterr()
        assert err == ""
        assert incomplete or "INCOMPLETE" not in out
        return out


@pytest.fixture
def run(fixture: Fixture, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Runner:
    """Return what runs scripts on a fixture."""
    return Runner(fixture, monkeypatch, capsys)


def heads(fixture: Fixture, *scenarios: str) -> set[int]:
    """Return the large folios of node 1 that were put in these states."""
    return {mark.head for mark in fixture.marks if mark.scenario in scenarios and mark.kind.startswith("anon-")}


def listed(text: str) -> set[int]:
    """Return the page frames that a script names."""
    return {int(pfn, 16) for pfn in re.findall(r"\bpfn (0x[0-9a-f]+)", text)}


def test_why_not_offline(run: Runner) -> None:
    """The folios that the guest holds, and no others; and the block that has none can go."""
    out = run("why_not_offline.py", run.fixture.blocks)
    assert "memory32: offlining never returns" in out
    assert "memory35: can be taken offline" in out
    assert listed(out) == set(run.fixture.held())


def test_misjudged_thps(run: Runner) -> None:
    """THPs that are mapped by pages, and that nobody holds; those by copy on write are told from the others."""
    out = run("misjudged_thps.py", run.fixture.blocks)
    by_line = {line: listed("\n".join(re.findall(f"pfn .*{line} line", out))) for line in ("v5.7", "v5.8")}
    assert by_line["v5.8"] == heads(run.fixture, "thp_cow", "thp_cow_head")
    others = heads(run.fixture, "thp_pte", "thp_pte_3procs", "thp_partial", "thp_partial_head", "mthp")
    assert by_line["v5.7"] == others
    assert "neither Fixes line applies" in out


def test_stuck_subblocks(run: Runner) -> None:
    """Those that hold a folio which is held."""
    out = run("stuck_subblocks.py", run.fixture.blocks)
    stuck = {int(address, 16) >> 21 for address in re.findall(r"sub-block \d+ at (0x[0-9a-f]+)", out)}
    assert stuck == {pfn >> 9 for pfn in run.fixture.held()}
    assert listed(out) == set(run.fixture.held())


def test_swapcache_thps(run: Runner) -> None:
    """Both of them, explained to the last reference."""
    out = run("swapcache_thps.py", run.fixture.blocks)
    assert listed(out) == heads(run.fixture, "swapcache_thp", "swapcache_thp_unmapped")
    assert out.count("UNEXPLAINED 0 =") == len(listed(out))


def test_ksm_balance(run: Runner) -> None:
    """Every page that the guest knows to be shared."""
    out = run("ksm_balance.py", run.fixture.blocks)
    assert listed(out) == {mark.pfn for mark in run.fixture.marks if mark.kind == "ksm"}
    assert "the balance of 0 does not hold" in out


def test_cma_keepers(run: Runner) -> None:
    """No fixture has CMA; any range will do."""
    # Slim cores lack the flags of pageblocks that nobody asked for.
    assert run("cma_keepers.py", incomplete=True).startswith("0 ranges of this kernel's memory are CMA's\n")
    held = sorted(run.fixture.held())
    out = run("cma_keepers.py", f"{held[0] << 12:#x}-{(held[-1] << 12) - 1:#x}")
    assert listed(out) == set(held[:-1])


def test_explain_log(run: Runner, tmp_path: Path) -> None:
    """Lines as kernels print them, of a page that is held, one that is not, and one that does not exist."""
    held = min(run.fixture.held())
    log = tmp_path / "log"
    log.write_text(
        f"[  100.0] migrating pfn {held:x} failed ret:1 \n"
        "[  100.0] migrating pfn fffffffff failed ret:-11 \n"
        f"[  100.1] page:(____ptrval____) refcount:2 mapcount:1 mapping:0000000000000000 index:0x7f pfn:0x{held:x}\n"
        "[  100.1] page dumped because: migration failure\n"
        f"[  100.2] page: refcount:2 mapcount:1 mapping:0000000000000000 index:0x7f pfn:0x{held + 1:x}\n"
        "[  100.2] page dumped because: unmovable page\n"
        f"[  100.3] alloc_contig_range: [{held:x}, {held + 1:x}) PFNs busy\n"
        f"[  100.4] alloc_contig_range: [{held:x}, {held + 1:x}) PFNs busy\n"
    )
    out = run("explain_log.py", str(log))
    assert out.startswith("5 complaints of pages in the log\n")
    assert f"pfn {held:#x}: migrating failed, ret 1\n" in out
    assert f"pfn {held:#x}: dumped because: migration failure\n" in out
    assert f"pfns {held:#x}-{held:#x}: PFNs busy, 2 times\n" in out
    assert out.count(": contig: extra-reference\n") == 3
    assert "there is no page frame 0xfffffffff" in out


def test_explain_log_of_a_hostile_kernel(run: Runner, tmp_path: Path) -> None:
    """Nothing of a log steers the terminal, and numbers that cannot be are told as such."""
    held, most = min(run.fixture.held()), "f" * 40
    log = tmp_path / "log"
    log.write_text(
        f"page: refcount:2 mapcount:1 mapping:0000000000000000 index:0x7f pfn:0x{held:x}\n"
        "page dumped because: \x1b[2Jnothing\u202e\n"
        f"migrating pfn {most} failed ret:-11 \n"
        f"page: refcount:2 mapcount:1 mapping:0000000000000000 index:0x7f pfn:0x{most}\n"
        "page dumped because: unmovable page\n"
        f"alloc_contig_range: [{most}, {most}f) PFNs busy\n"
        f"alloc_contig_range: [{held + 9:x}, {held:x}) PFNs busy\n"
        f"alloc_contig_range: [{held:x}, {held:x}) PFNs busy\n"
    )
    out = run("explain_log.py", str(log))
    assert "\x1b" not in out
    assert f"pfn {held:#x}: dumped because: \\x1b[2Jnothing\\u202e\n" in out
    assert out.count("has more than 64 bits\n") == 2
    assert out.count("ends before it begins\n") == 2
    assert "neither a block" in out
    assert out.startswith("6 complaints of pages in the log\n")


@pytest.mark.parametrize("name", NAMES)
def test_script_is_short_and_says_what_for(name: str) -> None:
    """Each is small enough to be read before it is run."""
    lines = (SCRIPTS / name).read_text(encoding="utf-8").splitlines()
    assert len(lines) <= MAX_LINES
    assert lines[1] == '"""'
    assert lines[2].endswith("?")
    assert any(line.startswith("    drgn -c VMCORE " + name) for line in lines)
    assert name in (SCRIPTS / "README.md").read_text(encoding="utf-8")


def test_drgn_itself_runs_them(tmp_path: Path) -> None:
    """As a user would: drgn -c VMCORE SCRIPT, without debugging symbols."""
    from tests.plugin.terminal import unpacked

    core = unpacked(ALL[1], tmp_path)
    command = [sys.executable, "-m", "drgn", "-q", "-c", str(core), str(SCRIPTS / "ksm_balance.py"), "32"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "2 pages shared" in result.stdout
