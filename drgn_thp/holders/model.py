# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a walker is, and what it says: which pages somebody holds, and how."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import DrgnThpError

SOON = " (it does so itself, soon)"
"""What is added to the advice on holders that are transient."""


class Damaged(DrgnThpError):
    """A structure of the target contradicts itself: a list without end, a length that cannot be."""


@dataclass(frozen=True)
class Owner:
    """
    Who holds pages, as far as the structure that holds them tells.

    Give the most that is known for certain: of a file all processes that have it open are found from its address, by
    whatever way they have it; a task or an mm names its process.

    :ivar what: The thing that holds, in words: ``"buffer 3"``, ``"receive queue"``. Text from the target may be in it
        as it is: whoever prints it escapes it.
    :ivar file: Address of the ``struct file``; 0 if there is none
    :ivar more_files: Others that are as good: the other end of a pipe
    :ivar task: Address of a ``struct task_struct``
    :ivar mm: Address of a ``struct mm_struct``
    :ivar cpu: For what belongs to a CPU
    :ivar device: For what belongs to a device or filesystem: its name
    """

    what: str
    file: int = 0
    more_files: tuple[int, ...] = ()
    task: int = 0
    mm: int = 0
    cpu: int | None = None
    device: str = ""

    @staticmethod
    def by_files(what: str, files: Sequence[int], device: str = "") -> Owner:
        """Return who has some ``struct file``, by their addresses, any of which is as good as another."""
        return Owner(what, file=files[0] if files else 0, more_files=tuple(files[1:]), device=device)


@dataclass(frozen=True)
class Claim:
    """
    Pages that one owner holds.

    :ivar pages: Page frame numbers, of any page of a folio (a sequence or numpy array); a page that is there twice is
        held twice
    :ivar gets: References on each page that are no pins (``get_page()``): a number, or one for each page
    :ivar pins: Pins on each page (``FOLL_PIN``), likewise. What a pin weighs in the reference count (1024 in small
        folios, 1 in others) is not the walker's business.
    :ivar exact: Whether the structure itself names the page; False if it was inferred
    :ivar expected: Whether mm counts this reference among those it expects: shown, but not counted again
    :ivar transient: Whether the owner lets go by itself, soon; if None, as the walker's
    """

    owner: Owner
    pages: Any
    gets: Any = 0
    pins: Any = 0
    exact: bool = True
    expected: bool = False
    transient: bool | None = None


@dataclass(frozen=True)
class Walker:
    """
    Finds what one kind of holder holds.

    :ivar kind: Stable kebab-case word, part of the schema
    :ivar summary: What holds pages so, in a line
    :ivar frees: What makes it let go, in a line: advice for people
    :ivar walk: Given a :class:`~.ground.Ground`, yields claims, of all pages and not just of suspects; the core keeps
        those that are wanted
    :ivar types: Types that it needs. If the target has none of them, its kernel has no such holders; if some are
        missing, the walker is skipped, and the report says so.
    :ivar symbols: Symbols of which it needs at least one; with ``module``, they are sought there as well
    :ivar module: Module without which there are no such holders, unless it is built in (when a symbol is the kernel's)
    :ivar transient: Whether it lets go by itself, soon, unless a claim says otherwise
    """

    kind: str
    summary: str
    frees: str
    walk: Callable[[Any], Iterator[Claim]]
    types: tuple[str, ...] = ()
    symbols: tuple[str, ...] = ()
    module: str = ""
    transient: bool = False


@dataclass
class Outcome:
    """
    How a walker fared.

    :ivar state: ``"ran"``, ``"absent"`` (the kernel has no such holders), ``"off"`` (by wish), ``"skipped"`` or
        ``"failed"``
    :ivar why: Of what was skipped or failed
    :ivar claims: How many claims it made
    :ivar failures: Objects that could not be followed, counted
    :ivar first_failure: The first of them, in words
    """

    kind: str
    state: str = "ran"
    why: str = ""
    claims: int = 0
    failures: int = 0
    first_failure: str = ""
    seconds: float = field(default=0.0, compare=False)

    @property
    def problem(self) -> str:
        """What is missing because of it, in words; empty if nothing is."""
        if self.state == "failed":
            return f"walker {self.kind} failed: {self.why}; attributions may be missing"
        if self.state == "skipped":
            return f"walker {self.kind} skipped: {self.why}; attributions may be missing"
        if self.failures:
            return f"walker {self.kind}: {self.failures} objects could not be followed (first: {self.first_failure})"
        return ""
