# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a kernel may do with a folio, or a memory block, when it is asked."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Answer(Enum):
    """Judged by whether the page frames were vacated, not by what is printed."""

    MOVED = "moved"
    RECLAIMED = "reclaimed"
    """Vacated as well, but dropped or written out rather than copied."""
    SPLIT = "split"
    REFUSED = "refused"
    NOT_ISOLATED = "not isolated"
    NOT_SPLIT = "not split"
    ENDLESS = "endless"
    """It goes on trying, until a signal."""
    BLOCKED = "blocked"
    """It sleeps, and not even SIGKILL helps."""
    BLOCK_REFUSED = "its block refused"
    """The kernel would not have the memory block at all, which was said of the block: it never came to this folio."""
    NOT_REACHED = "not reached"
    """The kernel gave up because of another folio, before it came to this one."""


VACATED = frozenset({Answer.MOVED, Answer.RECLAIMED, Answer.SPLIT})


@dataclass(frozen=True)
class Told:
    """
    An answer, and what the kernel told besides.

    :ivar word: An errno or a line of the log, if any.
    :ivar stage: "isolation" or "migration", where the kernel tells which of them failed.
    """

    answer: Answer
    word: str = ""
    stage: str = ""
