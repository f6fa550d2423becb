# SPDX-License-Identifier: LGPL-2.1-or-later
"""A guest under random load, stopped at random: what is said of its folios comes true."""

from __future__ import annotations

import pytest

from .matrix import KERNELS, Kernel
from .truth import load

pytestmark = pytest.mark.vm


@pytest.mark.parametrize("entry", KERNELS, ids=lambda entry: entry.name)
def test_verdicts_come_true_under_load(entry: Kernel) -> None:
    """Two instants; the truth run has more."""
    result = load.run(entry.name, instants=2)
    assert result.folios > 1000
    assert result.refused.total() > 0
    assert not result.wrong, result.summary()
    assert not result.wrong_blocks, result.summary()
