# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which tests have to run in one process, where the suite is spread over several (pytest-xdist, ``-n 2``)."""

from __future__ import annotations

import re
from typing import Any

import pytest

# Dumps are opened once for all tests of such a directory; elsewhere, for those of a file.
OPENED_FOR_ALL = ("tests/engine", "tests/odd")
KERNEL = re.compile(r"[\[-](\d+\.\d+(?:-all)?)(?=[-\]])")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep together what looks at the same kernel's dump, which takes seconds to open."""
    from xdist.scheduler import LoadScopeScheduling

    class ByKernel(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    return ByKernel(config, log)


def group_of(nodeid: str) -> str:
    """Return the file or directory of a test, and its kernel if it has one."""
    path, _, name = nodeid.partition("::")
    directory = path.rpartition("/")[0]
    kernel = KERNEL.search(name)
    return f"{directory if directory in OPENED_FOR_ALL else path} {kernel[1] if kernel else ''}"
