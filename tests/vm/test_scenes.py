# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every scene comes out on every kernel: a scenario that quietly vanished would leave every test on it passing."""

from __future__ import annotations

import pytest

from . import workload
from .dumps import ensure_dump
from .matrix import KERNELS, WITH_DRIVERS, Kernel
from .scenes import ALL_SCENES, DRIVERS, Scene

pytestmark = pytest.mark.vm

# Free huge pages have no scenario that would mark them, and what fills memory for others has no pages to mark.
UNMARKED = frozenset({"hugetlb_free", "cma_ballast"})
CASES = [(scene, entry) for scene in ALL_SCENES for entry in (WITH_DRIVERS if scene is DRIVERS else KERNELS)]


@pytest.mark.parametrize(("scene", "entry"), CASES, ids=lambda one: one.name)
def test_scenarios_are_complete(scene: Scene, entry: Kernel) -> None:
    """What the guest could not show is exactly what the matrix says that this kernel lacks."""
    dump = ensure_dump(entry, scene=scene)
    scenarios = workload.scenarios(scene.name)
    assert dump.lacks == entry.lacks & scenarios
    shown = {mark.scenario for mark in dump.marks} | {holding.scenario for holding in dump.holdings}
    assert shown - UNMARKED == scenarios - UNMARKED - entry.lacks
