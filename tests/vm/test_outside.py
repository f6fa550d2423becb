# SPDX-License-Identifier: LGPL-2.1-or-later
"""A guest that runs, read from outside while nothing happens in it: the same as its dump."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from drgn import Program

from drgn_thp.context import Context
from drgn_thp.gates import paths
from drgn_thp.report import Question, Report
from drgn_thp.target import TargetSpec, open_target
from tests.vm.dumps import Dump, ensure_dump
from tests.vm.matrix import KERNELS, kernel
from tests.vm.rewind import Rewound

pytestmark = [
    pytest.mark.vm,
    pytest.mark.skipif(not hasattr(Program, "set_qemu_qmp"), reason="this drgn has no set_qemu_qmp()"),
]


def refused(spec: TargetSpec, dump: Dump) -> tuple[Report, list[dict[str, Any]]]:
    """Return the report of the hot-plugged memory, and its refused folios."""
    context = Context.of(open_target(spec).prog)
    wanted = range(dump.hotplug_pfns.start, dump.hotplug_pfns.stop)
    asked = Question([path.of(context.kernel) for path in paths().values()], lambda block: block.start_pfn in wanted)
    report = Report(context, asked)
    return report, [record for record in report.records() if record["kind"] == "folio"]


@pytest.mark.parametrize("name", [entry.name for entry in KERNELS])
def test_same_as_the_dump(name: str) -> None:
    """With types of the guest's own where it has them."""
    dump = ensure_dump(kernel(name))
    types: dict[str, Any] = {"default_symbols": "none"}
    if name == "5.10":  # its BTF is not in its memory
        types = {"symbols": (str(dump.vmlinux),), "default_symbols": "main"}
    _, before = refused(TargetSpec(core=str(dump.vmcore), symbols=(str(dump.vmlinux),), default_symbols="main"), dump)
    with Rewound(dump) as guest:
        report, now = refused(TargetSpec(qemu=str(Path(guest.guest.drgn_socket)), **types), dump)
        assert report.context.live
        assert report.totals.changing == report.totals.changed_blocks == report.totals.new_blocks == 0
    assert before
    assert now == before
