# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The checks with which each path of the kernel refuses a folio: one file per path, in the order of the kernel.

A file here that defines ``PATH`` or ``PATHS`` is a path; there is no other list of them.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from ..errors import BadArgument
from .model import Duration, Gate, Path, Reason, Verdicts

__all__ = ("Duration", "Gate", "Path", "Reason", "Verdicts", "find_path", "find_reason", "paths", "reasons_of")


@cache
def paths() -> dict[str, Path]:
    """Return every path by name, in alphabetical order."""
    found = {}
    for info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{info.name}")
        for path in (*getattr(module, "PATHS", ()), *filter(None, (getattr(module, "PATH", None),))):
            found[path.name] = path
    return dict(sorted(found.items()))


def find_path(name: str) -> Path:
    """
    Return a path by name.

    :raises BadArgument: if there is none
    """
    try:
        return paths()[name]
    except KeyError:
        raise BadArgument(f"no path {name!r}; there are {', '.join(paths())}") from None


@cache
def reasons_of() -> dict[str, Reason]:
    """Return every reason that any path gives, by name."""
    found = {gate.reason.name: gate.reason for path in paths().values() for gate in path.gates}
    return dict(sorted(found.items()))


def find_reason(name: str) -> Reason:
    """
    Return a reason by name.

    :raises BadArgument: if there is none
    """
    try:
        return reasons_of()[name]
    except KeyError:
        raise BadArgument(f"no reason {name!r}; there are {', '.join(reasons_of())}") from None
