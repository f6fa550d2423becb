# SPDX-License-Identifier: LGPL-2.1-or-later
"""Runs the walkers, each for itself, and keeps what they say of some folios."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace

import numpy
from drgn import FaultError

from ..context import Context
from ..folios import Column
from ..suspects import Suspects
from . import registry
from .files import Files
from .ground import MAX_SECONDS, Ground
from .kept import Kept, find_kept
from .model import Claim, Outcome, Owner, Walker

MAX_ROWS = 1 << 25
"""Claims on single folios that are kept of one walker."""
MAX_PENDING, MAX_PENDING_PAGES = 1 << 12, 1 << 20
"""Claims, and pages of them, that are looked at together."""


@dataclass(frozen=True)
class Held:
    """What one owner has of one folio."""

    kind: str
    owner: Owner
    gets: int
    pins: int
    exact: bool
    expected: bool
    transient: bool = False


@dataclass(frozen=True)
class _Pending:
    """A claim that was not looked at yet."""

    kind: str
    about: Claim
    pages: Column
    gets: int | Column
    pins: int | Column


@dataclass
class _Columns:
    """Claims on suspects: a row for each folio and claim."""

    row: list[Column] = field(default_factory=list)
    claim: list[Column] = field(default_factory=list)
    gets: list[Column] = field(default_factory=list)
    pins: list[Column] = field(default_factory=list)


class Findings:
    """What the walkers found of the suspects. Made by :func:`find_holders`."""

    def __init__(self, suspects: Suspects, files: Files) -> None:
        self.suspects = suspects
        self.files = files
        self.outcomes: list[Outcome] = []
        self.problems: list[str] = []
        self.kept = Kept()
        self._about: list[tuple[str, Claim]] = []
        self._columns = _Columns()
        self._pending: list[_Pending] = []
        self._pending_pages = 0
        self._starts: Column = numpy.zeros(1, numpy.int64)
        self._passing: Column = numpy.zeros(len(suspects), bool)

    def add(self, kind: str, claim: Claim, transient: bool = False) -> int:
        """
        Keep what a claim says of the suspects, and return how many rows are known to be kept since the last answer.

        Claims are looked at many at a time; :meth:`settle` looks at the rest.

        :param transient: Whether the owner lets go by itself, where the claim does not say
        """
        pages = numpy.asarray(claim.pages, numpy.int64).reshape(-1)
        gets, pins = (
            number if isinstance(number, int) else numpy.broadcast_to(numpy.asarray(number), pages.shape)
            for number in (claim.gets, claim.pins)
        )
        # The claim is kept for its owner; its pages may be many, and none of the suspects.
        passes = transient if claim.transient is None else claim.transient
        about = replace(claim, pages=(), gets=0, pins=0, transient=passes)
        self._pending.append(_Pending(kind, about, pages, gets, pins))
        self._pending_pages += len(pages)
        many = len(self._pending) >= MAX_PENDING or self._pending_pages >= MAX_PENDING_PAGES
        return self.settle() if many else 0

    def settle(self) -> int:
        """Look at the claims that were added last, and return of how many rows they are."""
        pending, self._pending, self._pending_pages = self._pending, [], 0
        if not pending:
            return 0
        lengths = [len(one.pages) for one in pending]
        rows = self.suspects.find(numpy.concatenate([one.pages for one in pending]))
        wanted = rows >= 0
        if not wanted.any():
            return 0
        count = len(self.suspects)
        keys = numpy.repeat(numpy.arange(len(pending)), lengths)[wanted] * count + rows[wanted]
        found, inverse = numpy.unique(keys, return_inverse=True)
        used, claims = numpy.unique(found // count, return_inverse=True)
        kept = [pending[i] for i in used.tolist()]
        passing = numpy.array([bool(one.about.transient and not one.about.expected) for one in kept])
        self._passing[(found % count)[passing[claims]]] = True
        self._columns.row.append(found % count)
        self._columns.claim.append(claims + len(self._about))
        self._about += [(one.kind, one.about) for one in kept]
        for column, name in ((self._columns.gets, "gets"), (self._columns.pins, "pins")):
            weights = _spread([getattr(one, name) for one in pending], lengths)[wanted]
            column.append(numpy.bincount(inverse, weights, len(found)).astype(numpy.int64))
        return len(found)

    def look_for_keepers(self, ground: Ground, seconds: float) -> Outcome:
        """Find out who has the files that nobody has open, if any of them holds a suspect."""
        outcome = Outcome("of files that files keep")
        owners = {claim.owner for _, claim in self._about}
        if all(not owner.file or self._is_open(owner) for owner in owners):
            return outcome
        ground.begin(outcome, seconds)
        try:
            self.kept = find_kept(ground)
        except Exception as error:  # as of a walker
            outcome.state, outcome.why = "failed", f"{type(error).__name__}: {error}"
        return outcome

    def _is_open(self, owner: Owner) -> bool:
        return any(self.files.descriptors(file) for file in (owner.file, *owner.more_files) if file)

    def finish(self) -> None:
        """Sort what was kept by folio."""
        columns = self._columns
        names = ("row", "claim", "gets", "pins")
        empty = [numpy.zeros(0, numpy.int64)]
        merged = {name: numpy.concatenate(getattr(columns, name) or empty) for name in names}
        order = numpy.lexsort((merged["claim"], merged["row"]))
        self._columns = _Columns(*([merged[name][order]] for name in names))
        self._starts = numpy.searchsorted(self._columns.row[0], numpy.arange(len(self.suspects) + 1))

    def may_pass(self, pfn: Column) -> Column:
        """Return which folios have a holder that lets go by itself."""
        row = self.suspects.find(numpy.asarray(pfn, numpy.int64))
        return numpy.where(row >= 0, self._passing[row], False) if len(self._passing) else row >= 0

    def of(self, pfn: int) -> list[Held]:
        """Return who holds a folio, which must be one of the suspects; each owner once."""
        row = self.suspects.number(pfn)
        if row < 0:
            return []
        found: dict[tuple[str, Owner, bool, bool, bool], list[int]] = {}
        for i in range(int(self._starts[row]), int(self._starts[row + 1])):
            kind, claim = self._about[int(self._columns.claim[0][i])]
            about = (kind, claim.owner, claim.exact, claim.expected, bool(claim.transient))
            sums = found.setdefault(about, [0, 0])
            sums[0] += int(self._columns.gets[0][i])
            sums[1] += int(self._columns.pins[0][i])
        return [
            Held(kind, owner, gets, pins, exact, expected, transient)
            for (kind, owner, exact, expected, transient), (gets, pins) in found.items()
        ]


def find_holders(
    context: Context, suspects: Suspects, off: Collection[str] = (), seconds: float = MAX_SECONDS
) -> Findings:
    """
    Run every walker.

    :param off: Kinds of walkers not to run
    :param seconds: How long each may take
    """
    ground = Ground(context)
    ground.wanted = suspects
    findings = Findings(suspects, ground.files)
    found = registry()
    findings.problems += found.problems
    for walker in found.walkers.values():
        outcome = Outcome(walker.kind)
        findings.outcomes.append(outcome)
        if walker.kind in off:
            outcome.state = "off"
            continue
        start = time.monotonic()
        _run(ground, walker, outcome, findings, seconds)
        outcome.seconds = time.monotonic() - start
    kept = findings.look_for_keepers(ground, seconds)
    findings.problems += [outcome.problem for outcome in (*findings.outcomes, kept) if outcome.problem]
    findings.problems += [f"files: {failure}" for failure in ground.files.failures]
    findings.finish()
    return findings


def _run(ground: Ground, walker: Walker, outcome: Outcome, findings: Findings, seconds: float) -> None:
    ground.begin(outcome, seconds)
    kept = 0
    try:
        outcome.state, outcome.why = _missing(ground, walker)
        if outcome.state != "ran":
            return
        for claim in _checked(ground, walker):
            outcome.claims += 1
            kept += findings.add(walker.kind, claim, walker.transient)
            if kept > MAX_ROWS:
                outcome.state, outcome.why = "failed", f"it claims more than {MAX_ROWS} folios"
                return
    except Exception as error:  # a walker's failure, whatever it is, costs its own rows only, and is shown
        outcome.state = "failed"
        outcome.why = str(error) if isinstance(error, FaultError) else f"{type(error).__name__}: {error}"
    finally:
        findings.settle()


def _spread(numbers: list[int | Column], lengths: list[int]) -> Column:
    """Return one number for each page: some are the same for all pages of a claim."""
    if all(isinstance(number, int) for number in numbers):
        return numpy.repeat(numpy.array(numbers, numpy.int64), lengths)
    return numpy.concatenate([numpy.broadcast_to(number, length) for number, length in zip(numbers, lengths)])


def _checked(ground: Ground, walker: Walker) -> Iterator[Claim]:
    for claim in walker.walk(ground):
        ground.step()
        if not isinstance(claim, Claim):
            raise TypeError(f"{claim!r} is no Claim")
        yield claim


def _missing(ground: Ground, walker: Walker) -> tuple[str, str]:
    """Return the state that follows from what the target has of what a walker needs, and why."""
    module = walker.module
    built_in = any(ground.prog.symbols(name) for name in walker.symbols)
    if module and not built_in and module not in ground.modules:
        return "absent", f"module {module} is not loaded"
    lacks = [name for name in walker.types if not ground.has(name)]
    known = not walker.symbols or any(ground.symbol(name, module) is not None for name in walker.symbols)
    if len(lacks) == len(walker.types) > 0 and not module:
        # Not configured, or before its time: nothing of it is described, nor has a name.
        return (
            ("absent", "the kernel has no such thing")
            if not known or not walker.symbols
            else (
                "skipped",
                f"nothing describes {lacks[0]}",
            )
        )
    if lacks:
        return "skipped", f"nothing describes {', '.join(lacks)}" + f" of module {module}" * bool(module)
    if not known:
        return "skipped", f"the address of {' or '.join(walker.symbols)} is not known"
    return "ran", ""
