# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which tests have to run in one process, where the suite is spread over several (pytest-xdist, ``-n 2``)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .vm.matrix import Kernel

# Dumps are opened once for all tests of such a directory; elsewhere, for those of a file.
OPENED_FOR_ALL = ("engine", "odd")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep together what looks at the same kernel's dump, which takes seconds to open."""
    if not config.pluginmanager.hasplugin("xdist"):
        return
    for item in items:
        here = item.path.parent if item.path.parent.name in OPENED_FOR_ALL else item.path
        item.add_marker(pytest.mark.xdist_group(group_of(item, here)))


def group_of(item: pytest.Item, here: Path) -> str:
    """Return the file or directory, and the kernel if the test has one."""
    values = item.callspec.params.values() if isinstance(item, pytest.Function) and hasattr(item, "callspec") else ()
    kernels = [entry.name for value in values for entry in kernels_of(value)]
    return "-".join([*here.parts[-2:], *kernels[:1]])


def kernels_of(value: object) -> Iterator[Kernel]:
    """Yield the kernels in a parameter."""
    if isinstance(value, Kernel):
        yield value
    elif isinstance(value, tuple):
        for part in value:
            yield from kernels_of(part)
