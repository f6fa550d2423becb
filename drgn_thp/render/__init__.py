# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Output formats: one file each, found by being here.

A renderer is a function ``render(records, out, options)``: it is given the records of a report, or of ``folio``, and
writes them to a text stream.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable
from functools import cache
from typing import Any, Callable, TextIO

Renderer = Callable[[Iterable[dict[str, Any]], TextIO, int], None]


@cache
def renderers() -> dict[str, Renderer]:
    """Return every output format by name."""
    names = sorted(info.name for info in pkgutil.iter_modules(__path__))
    return {name: importlib.import_module(f"{__name__}.{name}").render for name in names}
