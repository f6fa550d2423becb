# SPDX-License-Identifier: LGPL-2.1-or-later
"""The package in a drgn session: commands, helpers, scripts."""
