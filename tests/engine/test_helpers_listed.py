# SPDX-License-Identifier: LGPL-2.1-or-later
"""The list of helpers that are compared with the scan is complete. Needs no dump."""

from __future__ import annotations

import inspect

from drgn_thp import helpers

from .test_agreement import HELPERS


def test_helpers_are_all_tested() -> None:
    """A helper that is added is added here."""
    others = {"read_folio", "read_page", "migration_verdict"}
    public = {
        name
        for name, function in inspect.getmembers(helpers, inspect.isfunction)
        if function.__module__ == helpers.__name__ and not name.startswith("_")
    }
    assert public == set(HELPERS) | others
