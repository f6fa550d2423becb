# SPDX-License-Identifier: LGPL-2.1-or-later
"""Each fixture, opened once for all tests."""

from __future__ import annotations

import drgn
import pytest

from tests.fixture import ALL, Fixture


@pytest.fixture(scope="session", params=ALL, ids=lambda fixture: fixture.kernel)
def fixture(request: pytest.FixtureRequest) -> Fixture:
    """Each kernel."""
    assert isinstance(request.param, Fixture)
    if request.param.version >= (7, 0) and drgn.__version__.startswith("0.0."):
        pytest.skip("drgn before 0.1 cannot read the symbols of 7.x: their offsets are kept in another way")
    return request.param
