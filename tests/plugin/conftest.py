# SPDX-License-Identifier: LGPL-2.1-or-later
"""Each fixture, opened once for all tests."""

from __future__ import annotations

import pytest

from tests.fixture import EACH, Fixture


@pytest.fixture(scope="session", params=EACH)
def fixture(request: pytest.FixtureRequest) -> Fixture:
    """Each kernel."""
    assert isinstance(request.param, Fixture)
    return request.param
