# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What can be asked by one word, at the prompt of drgn (``%thp``) and of the shell (``drgn-thp thp``): one file each.

A file here has ``arguments()``, which options it takes; ``ask()``, the function behind the word; and ``write()``, which
shows an answer to people. The table names them without importing them: drgn reads it at each start.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from .model import Command

SUMMARIES = {
    "memblocks": "memory blocks: state, zone, refused folios, and whether they could be taken away",
    "refused": "folios that a path of migration would refuse",
    "folio": "everything about the folios of some pages",
    "thp": "large folios: how mapped, deferred, splittable or why not",
    "swapcache": "folios in the swap cache, and their references",
    "ksm": "pages that KSM shares, and their references",
    "virtio_mem": "devices of virtio-mem, and what could be unplugged of them",
    "reasons": "what the reasons for refusal mean",
}
"""Every command by its word, with what it shows."""


def module_of(word: str) -> Command:
    """Return the module of a command."""
    module: object = importlib.import_module(f"{__name__}.{word}")
    return cast("Command", module)
