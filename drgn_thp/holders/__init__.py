# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Who holds pages: a file per kind of holder, found by being here, or by the entry-point group ``drgn_thp.holders``.

A file of walkers defines ``WALKERS``, a tuple of :class:`~.model.Walker`; so does the module or object that an entry
point names. docs/holders.md says how to write one.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from .model import Walker

GROUP = "drgn_thp.holders"


@dataclass(frozen=True)
class Registry:
    """Every walker by kind, and what is wrong with those that cannot be had."""

    walkers: dict[str, Walker]
    problems: tuple[str, ...] = ()


def built_in() -> dict[str, Walker]:
    """Return the walkers of this package, by kind."""
    return {
        walker.kind: walker
        for info in sorted(pkgutil.iter_modules(__path__), key=lambda info: info.name)
        for walker in getattr(importlib.import_module(f"{__name__}.{info.name}"), "WALKERS", ())
    }


@cache
def registry() -> Registry:
    """Return the built-in walkers, and then those of other packages: they may not take a kind that is taken."""
    walkers = built_in()
    problems: list[str] = []
    for entry in sorted(_entry_points(), key=lambda entry: (entry.name, entry.value)):
        try:
            found = entry.load()
            for walker in getattr(found, "WALKERS", None) or (found,):
                if not isinstance(walker, Walker):
                    raise TypeError(f"{walker!r} is no Walker")
                if walkers.setdefault(walker.kind, walker) is not walker:
                    raise ValueError(f"there is a walker {walker.kind} already")
        except Exception as error:  # somebody else's code: whatever is wrong with it is said, and costs nothing else
            problems.append(f"holders of {entry.value} cannot be loaded: {type(error).__name__}: {error}")
    return Registry(walkers, tuple(problems))


def _entry_points() -> list[EntryPoint]:
    found = entry_points()
    if hasattr(found, "select"):
        return list(found.select(group=GROUP))
    return list(found.get(GROUP, ()))  # Python 3.9
