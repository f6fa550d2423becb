# SPDX-License-Identifier: LGPL-2.1-or-later
"""Each kernel of the matrix: its dump, a core to make odd ones of, and the answer that the whole dump gives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

from tests.vm.lab import Dump, ensure_dump
from tests.vm.matrix import KERNELS

from .command import NO_SYMBOLS, Outcome, dwarf, movable, report, report_here
from .cores import Core


@dataclass(frozen=True)
class Odd:
    """
    One kernel.

    :ivar core: A copy of the dump with other program headers; the tests share it, and each sets them as it needs.
    :ivar directory: For whatever is made of it.
    """

    dump: Dump
    core: Core
    directory: Path

    @cached_property
    def whole(self) -> Outcome:
        """What is refused on node 1, on every path: by the dump as it was, with its debug package."""
        return report(self.dump.vmcore, *dwarf(self.dump), *movable(self.dump), "--path", "all")

    @property
    def version(self) -> tuple[int, int]:
        major, minor = self.dump.kernel.split(".")
        return int(major), int(minor)

    @property
    def ways(self) -> list[tuple[str, ...]]:
        """The options that name the source of types: a file, and where the kernel carries it, the dump itself."""
        return [dwarf(self.dump)] + ([NO_SYMBOLS] if self.version >= (6, 12) else [])

    def report(self, core: Path, way: tuple[str, ...]) -> Outcome:
        """Ask what :attr:`whole` was asked."""
        return report_here(core, *way, *movable(self.dump), "--path", "all")


@pytest.fixture(scope="session", params=KERNELS, ids=lambda entry: entry.name)
def odd(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Odd]:
    """Each kernel in turn. What cannot be made fails; nothing is skipped."""
    dump = ensure_dump(request.param)
    directory = tmp_path_factory.mktemp("odd")
    made = Odd(dump, Core(dump.vmcore, directory / "vmcore"), directory)
    assert made.whole.status == 1, made.whole.errors
    assert made.whole.incomplete == ""
    yield made
    made.core.path.unlink()
