# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every helper has an example, and every example gives what it says."""

from __future__ import annotations

import doctest
import importlib
import inspect
from collections.abc import Iterator
from typing import Any

import drgn
import pytest
from drgn.helpers.linux.mm import page_to_pfn, pfn_to_page

import drgn_thp
from drgn_thp import examples
from tests.tree import ROOT

MODULES = ("examples", "finding", "helpers", "predicates")


def namespace() -> dict[str, Any]:
    """Return what a session has after the imports that the documentation tells to type."""
    names: dict[str, Any] = {name: getattr(drgn_thp, name) for name in drgn_thp.__all__}
    return {
        **names,
        "example": examples.example,
        "page_to_pfn": page_to_pfn,
        "pfn_to_page": pfn_to_page,
        "cast": drgn.cast,
    }


def documented() -> Iterator[Any]:
    finder = doctest.DocTestFinder(exclude_empty=True)
    for name in MODULES:
        module = importlib.import_module(f"drgn_thp.{name}")
        for test in finder.find(module, globs={}):
            if test.examples:
                yield pytest.param(test, id=test.name)


@pytest.mark.parametrize("test", list(documented()))
def test_example(test: doctest.DocTest) -> None:
    """As if typed in a session."""
    test.globs = namespace()
    said: list[str] = []
    failures, _ = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=said.append)
    assert failures == 0, "".join(said)


@pytest.mark.parametrize("name", drgn_thp.__all__)
def test_every_helper_has_one(name: str) -> None:
    """A helper without is not documented."""
    function = getattr(drgn_thp, name)
    assert ">>> " in (inspect.getdoc(function) or "")
    assert function.__module__.startswith("drgn_thp.")


def test_none_takes_a_name_of_drgn() -> None:
    """``from drgn_thp import *`` must not change what a session has."""
    for module in ("drgn.helpers.linux", "drgn.helpers.common"):
        assert not set(drgn_thp.__all__) & set(importlib.import_module(module).__all__)


def test_each_is_said_to_be_offered_to_drgn_or_not() -> None:
    """Predicates of a flag are offered together."""
    page = (ROOT / "docs" / "upstream.md").read_text(encoding="utf-8")
    missing = [name for name in drgn_thp.__all__ if f"`{name}()`" not in page and not name.startswith("folio_test_")]
    assert missing == ["PageAnon", "PageKsm", "PageSwapCache"]  # other names of predicates that are there


def test_the_reference_has_every_helper() -> None:
    """Its modules are taken whole."""
    page = (ROOT / "docs" / "api" / "helpers.rst").read_text(encoding="utf-8")
    for name in drgn_thp.__all__:
        assert f".. automodule:: {getattr(drgn_thp, name).__module__}\n   :members:\n" in page
