# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The commands of a drgn session, which drgn finds by the entry point ``drgn.plugins`` at each start.

Whoever starts drgn need not want any of this: nothing heavy is imported before a command is used, nothing is printed,
and where drgn has no commands yet there are none.
"""

from __future__ import annotations

import logging

try:
    from .lazy import register
except ImportError as error:  # drgn.commands came with 0.0.32, and may change
    # Who asks for it sees it: drgn --log-level debug.
    logging.getLogger("drgn.plugins").debug("drgn_thp: this drgn has no commands, so there are none (%s)", error)
else:
    register()
