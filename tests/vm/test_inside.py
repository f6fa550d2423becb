# SPDX-License-Identifier: LGPL-2.1-or-later
"""drgn and this package in a guest, at the guest's own kernel: the same as its dump, and as is seen from outside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from drgn import Program

from drgn_thp.context import Context
from drgn_thp.gates import paths
from drgn_thp.report import Question, Report
from drgn_thp.target import TargetSpec, open_target
from tests.vm import kernels
from tests.vm.inside import inside
from tests.vm.matrix import KERNELS, kernel

pytestmark = pytest.mark.vm

HELD = 6


def refused(spec: TargetSpec, blocks: list[int]) -> list[dict[str, Any]]:
    """Return the refused folios of memory blocks."""
    context = Context.of(open_target(spec).prog)
    judged = [path.of(context.kernel) for path in paths().values()]
    report = Report(context, Question(judged, lambda block: block.id in blocks))
    return [record for record in report.records() if record["kind"] == "folio"]


@pytest.mark.parametrize("name", [entry.name for entry in KERNELS])
def test_same_as_the_dump(name: str, tmp_path: Path) -> None:
    """With types of the kernel's own, but for 5.10, which has the DWARF of its vmlinux on disk."""
    vmlinux = (str(kernels.fetch(kernel(name)).vmlinux),)
    with inside(name) as (guest, users):
        root = users["root"]
        assert root.status == 1, root.lines
        summary = root.records[-1]
        assert summary["incomplete"] == []
        blocks = [record["block"] for record in root.records if record["kind"] == "block"]
        folios = [record for record in root.records if record["kind"] == "folio"]
        assert len({record["pfn"] for record in folios if record["path"] == "offline"}) == HELD
        if hasattr(Program, "set_qemu_qmp"):
            outside = TargetSpec(qemu=str(guest.drgn_socket), symbols=vmlinux, default_symbols="main")
            assert refused(outside, blocks) == folios
        guest.dump(tmp_path / "vmcore")
        core = TargetSpec(core=str(tmp_path / "vmcore"), symbols=vmlinux, default_symbols="main")
        assert refused(core, blocks) == folios
        for user, missing in (("nobody", "only root may open it"), ("without-rawio", "CAP_SYS_RAWIO is missing")):
            assert users[user].status == 3
            [line] = users[user].lines
            assert missing in line


@pytest.mark.parametrize("mode", ["integrity", "confidentiality"])
def test_lockdown(mode: str) -> None:
    """Integrity is about writing; confidentiality is about reading, and says so."""
    with inside("6.12", (f"lockdown={mode}",)) as (_, users):
        root = users["root"]
        assert users["mode"].lines == [mode]
        if mode == "integrity":
            assert root.status == 1
            assert root.records[-1]["kind"] == "summary"
        else:
            assert root.status == 3
            [line] = root.lines
            assert "the kernel is locked down (/sys/kernel/security/lockdown: confidentiality)" in line
