# SPDX-License-Identifier: LGPL-2.1-or-later
"""Each kernel of the matrix, its dump opened once for all tests."""

from __future__ import annotations

import pytest

from tests.vm.lab import ensure_dump
from tests.vm.matrix import KERNELS

from .opened import Opened
from .overlay import Overlay


@pytest.fixture(scope="session", params=KERNELS, ids=lambda entry: entry.name)
def opened(request: pytest.FixtureRequest) -> Opened:
    """Each dump in turn. What cannot be made fails; nothing is skipped."""
    return Opened(ensure_dump(request.param))


@pytest.fixture(scope="session")
def overlay(opened: Opened) -> Overlay:
    """The same dump once more, to be damaged. Whoever damages it mends it first."""
    return Overlay(opened.dump)
