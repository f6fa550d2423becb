# SPDX-License-Identifier: LGPL-2.1-or-later
"""Sphinx: the reference of the helpers and commands, from their docstrings. ``python -m sphinx -W docs/api OUTPUT``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

project = "drgn_thp"
extensions = ["sphinx.ext.autodoc"]
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_format = "short"
html_theme = "alabaster"
html_theme_options = {"description": "Which folios would the kernel refuse to migrate"}
