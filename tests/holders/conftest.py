# SPDX-License-Identifier: LGPL-2.1-or-later
"""The same fixtures as for the commands."""

from tests.plugin.conftest import fixture

__all__ = ("fixture",)
