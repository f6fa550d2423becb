# SPDX-License-Identifier: LGPL-2.1-or-later
"""The fixtures: slim cores of real kernels, and what readers that are not ours said of the same memory."""

from __future__ import annotations

import base64
import json
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import drgn
import numpy
import pytest
from drgn import Program

from drgn_thp.context import Context
from drgn_thp.folios import Column
from drgn_thp.target import Target, TargetSpec, open_target

from .tree import PACKAGE, ROOT

FIXTURES = ROOT / "tests" / "fixtures"
CORE, SCENARIOS, EXPECTED = "vmcore.elf.gz", "scenarios.json", "expected.json"
BUNDLED = "6.12"
"""The kernel whose fixture is part of the package; there is no second copy of it."""
KPF_COMPOUND_TAIL = 16


def core_directory(kernel: str) -> Path:
    """Return where the core of a fixture lies."""
    return PACKAGE / "data" / kernel if kernel == BUNDLED else FIXTURES / kernel


class Mark(NamedTuple):
    """A page with which the program in the guest did something; ``held`` is of its whole folio."""

    scenario: str
    pfn: int
    head: int
    kind: str
    held: bool


class Helped(NamedTuple):
    """A page as drgn's helpers and DWARF see it. Mapcount is that of the folio."""

    pfn: int
    head: int
    order: int
    refcount: int
    mapcount: int
    mapping: int
    flags: str


@dataclass(frozen=True)
class Fixture:
    """One kernel."""

    kernel: str

    @property
    def core(self) -> Path:
        return core_directory(self.kernel) / CORE

    @property
    def version(self) -> tuple[int, int]:
        major, minor = self.kernel.split(".")
        return int(major), int(minor)

    @cached_property
    def _expected(self) -> dict[str, Any]:
        text = (FIXTURES / self.kernel / EXPECTED).read_text(encoding="utf-8")
        result: dict[str, Any] = json.loads(text)
        return result

    @cached_property
    def release(self) -> str:
        return str(self._expected["release"])

    @cached_property
    def node1(self) -> range:
        """The page frames of the movable memory."""
        return range(*self._expected["node1"])

    @property
    def blocks(self) -> str:
        """The same as an argument of --block."""
        return f"{self.node1.start << 12:#x}-{(self.node1.stop << 12) - 1:#x}"

    @cached_property
    def marks(self) -> list[Mark]:
        return [Mark(*row) for row in self._expected["marks"]]

    @cached_property
    def helped(self) -> list[Helped]:
        return [Helped(*row) for row in self._expected["helpers"]]

    @cached_property
    def kpageflags(self) -> Column:
        """What the guest said of the page frames of :attr:`node1`, from its first one on."""
        return self._column("kpageflags")

    @cached_property
    def kpagecount(self) -> Column:
        return self._column("kpagecount")

    def _column(self, name: str) -> Column:
        return numpy.frombuffer(zlib.decompress(base64.b64decode(self._expected[name])), "<u8")

    def held(self) -> dict[int, str]:
        """Return the folios of node 1 that something outside of mm holds, by head, with their scenario."""
        return {mark.head: mark.scenario for mark in self.marks if mark.held and mark.head in self.node1}

    @cached_property
    def target(self) -> Target:
        """The core, opened without debugging symbols."""
        return open_target(TargetSpec(core=str(self.core), default_symbols="none"))

    @property
    def prog(self) -> Program:
        return self.target.prog

    @property
    def context(self) -> Context:
        return Context.of(self.prog)

    def arguments(self) -> list[str]:
        """Return the options that name it."""
        return ["-c", str(self.core), "--no-default-symbols"]


ALL = tuple(Fixture(name) for name in ("6.1", "6.12", "7.3"))
OLD_DRGN = drgn.__version__.startswith("0.0.")
"""drgn before 0.1 cannot read the symbols of 7.x: their offsets are kept in another way."""
EACH = [
    pytest.param(
        each,
        id=each.kernel,
        marks=pytest.mark.skipif(OLD_DRGN and each.version >= (7, 0), reason="drgn before 0.1 cannot read 7.x"),
    )
    for each in ALL
]
"""For a test or fixture of each kernel that this drgn can read."""
