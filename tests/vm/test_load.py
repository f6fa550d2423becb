# SPDX-License-Identifier: LGPL-2.1-or-later
"""A part of the random load: ``python -m tests.vm.truth.load`` has all of it."""

from __future__ import annotations

import pytest

from tests.vm.matrix import KERNELS
from tests.vm.truth.load import run

pytestmark = pytest.mark.vm

INSTANTS = 2
LEAST_FOLIOS = 5000


@pytest.mark.parametrize("name", [entry.name for entry in KERNELS])
def test_verdicts_under_load_come_true(name: str) -> None:
    """Whatever stays was said to stay, whatever goes was said to go, and blocks fare as was said."""
    result = run(name, INSTANTS)
    assert result.folios > LEAST_FOLIOS, "there was no load to speak of"
    assert result.refused, "nothing was held"
    assert not result.wrong, result.summary()
    assert not result.wrong_blocks, result.summary()
