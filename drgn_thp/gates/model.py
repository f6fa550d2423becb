# SPDX-License-Identifier: LGPL-2.1-or-later
"""Gates and paths: what a refusal is made of."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Callable

import numpy

from ..folios import Column, Folios
from ..formulas import is_free
from ..kernel import Kernel


class Duration(Enum):
    """For how long a check goes on refusing."""

    PERMANENT = "permanent"
    """It will still refuse next minute unless the owner of the folio does something."""
    TRANSIENT = "transient"
    """Some ongoing activity (I/O, a batch, a lock) ends by itself."""
    ENDLESS = "endless"
    """As permanent, and the kernel retries until a signal comes instead of giving up: offlining never returns."""
    WILL_BLOCK = "will-block"
    """The kernel waits, without a signal helping, until the activity ends; for ever, if it never does."""


@dataclass(frozen=True)
class Reason:
    """Why a folio is refused, in one word that is part of the schema, and in plain words."""

    name: str
    meaning: str
    advice: str
    only_counted: bool = False
    """Where there are such folios, there are many: reports for people count them, and do not list them."""

    def is_listed(self) -> bool:
        """Return whether reports for people list its folios."""
        return not self.only_counted


@dataclass(frozen=True)
class Gate:
    """One check with which one path of the kernel refuses a folio."""

    reason: Reason
    kernel: str
    """The kernel function that checks, and what it answers."""
    refuses: Callable[[Folios], Column]
    duration: Duration
    when: Callable[[Kernel], bool] = lambda kernel: True
    """Whether this kernel has the check."""
    wrongly: bool = False
    """The kernel is wrong to refuse: a bug that was fixed later."""

    @property
    def stage(self) -> str:
        """
        When alloc_contig_range() comes upon it, by the function that answers.

        isolation: before anything is migrated; passed-over: not isolated, found at the end; out-of-memory: -ENOMEM, at
        once; migration: -EBUSY, without looking further.
        """
        if "-ENOMEM" in self.kernel:
            return "out-of-memory"
        function = self.kernel.partition("(")[0]
        if function in ("has_unmovable_pages", "set_migratetype_isolate", "isolate_single_pageblock"):
            return "isolation"
        if function in ("isolate_migratepages_block", "isolate_or_dissolve_huge_folio", "test_pages_isolated"):
            return "passed-over"
        return "migration"


@dataclass(frozen=True)
class Verdicts:
    """The answer of one path for every row of a table."""

    gates: tuple[Gate, ...]
    primary: Column
    """Index of the gate that refuses first, -1 where none does."""
    mask: Column
    """Bit i set: gate i refuses."""


@dataclass(frozen=True)
class Path:
    """A way by which the kernel migrates (or splits) folios, with its checks in the order in which it makes them."""

    name: str
    summary: str
    gates: tuple[Gate, ...]

    def of(self, kernel: Kernel) -> Path:
        """Return the path as this kernel has it."""
        return Path(self.name, self.summary, tuple(gate for gate in self.gates if gate.when(kernel)))

    def judge(self, f: Folios) -> Verdicts:
        """
        Judge folios. The path must have been taken ``of(f.kernel)``.

        Free pages are no obstacle to anything and pass everywhere.
        """
        used = ~is_free(f)
        mask = numpy.zeros(len(f), numpy.uint64)
        primary = numpy.full(len(f), -1, numpy.int16)
        for i, gate in enumerate(self.gates):
            refused = gate.refuses(f)
            if refused.any():  # most gates refuse nothing of most tables
                refused = refused & used
                mask[refused] |= numpy.uint64(1 << i)
                primary[refused & (primary < 0)] = i
        return Verdicts(self.gates, primary, mask)
