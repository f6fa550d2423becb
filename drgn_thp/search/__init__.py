# SPDX-License-Identifier: LGPL-2.1-or-later
"""What in the kernel's memory points to folios that nobody explains: a trail, never a proof."""

from .chains import Chain, Search, find_chains

__all__ = ["Chain", "Search", "find_chains"]
