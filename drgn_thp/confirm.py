# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Refused folios of a live target, looked at again: which of them stay, and which were only passing.

A look is a burst of reads. What holds a folio is there at every one of them; what comes and goes besides (a lock, a
fault, a batch) is not, so that the surplus of a look is the least that any of its reads saw. Looks and reads are apart
by times with some randomness in them, lest they keep step with what they look at.

A folio is known again by what does not change while it is in use: :data:`IDENTITY`. docs/live.md says what that cannot
tell apart.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Callable

import numpy

from .again import is_tail, read_again
from .batches import read_batches
from .context import Context, Doubts
from .errors import BadArgument
from .folios import Column, Folios
from .formulas import PageHuge, extra_references, folio_test_swapcache, is_free, is_frozen, is_user
from .gates import Path, Verdicts

READS = 4
"""Reads of a look."""
PAUSE = (0.001, 0.02)
"""Seconds between them."""
SPREAD = 0.2
"""How much longer or shorter an interval may be, as a part of it."""
MAX_LOOKS = 10000
MAX_SUSPECTS = 1 << 18
"""More are not looked at again, but counted: a few hundred bytes are kept of each."""
IDENTITY = ("order", "type", "mapping", "index", "memcg_data", "mem_cgroup", "private")
_UNKNOWN = numpy.iinfo(numpy.int64).max


class Label(Enum):
    """What became of a refused folio."""

    PERSISTENT = "persistent"
    """
    The same folio was refused at every read, and its surplus was the same at every look. If it has none that stays, the
    reason was the same at every read.
    """
    TRANSIENT = "transient"
    """It is the same folio, but was not refused at some read, or its surplus or the reason changed."""
    GONE = "gone"
    """It was freed, or another folio is in its place."""


@dataclass(frozen=True)
class Looks:
    """
    How often to look again.

    :ivar number: Of looks, after the scan
    :ivar interval: Seconds from one to the next
    """

    number: int
    interval: float


def check_looks(context: Context, looks: Looks) -> None:
    """
    Check that looking again makes sense.

    :raises BadArgument: if it does not: of a dump, or in numbers
    """
    if not context.live:
        raise BadArgument("--confirm: a dump does not change; to look again needs -k or --qemu")
    if not 1 <= looks.number <= MAX_LOOKS:
        raise BadArgument(f"--confirm {looks.number}: from 1 to {MAX_LOOKS} looks")
    check_interval(looks.interval)


def check_interval(seconds: float) -> None:
    """
    Check the time between looks.

    :raises BadArgument: if it is none
    """
    if not 0 <= seconds <= 86400:  # nan neither
        raise BadArgument(f"--interval {seconds}: from 0 to 86400 seconds")


def pause_for(interval: float, sleep: Callable[[float], None] = time.sleep) -> None:
    """Sleep for about so many seconds."""
    sleep(interval * random.uniform(1 - SPREAD, 1 + SPREAD))


def identity(f: Folios) -> Column:
    """Return what a folio is known again by, a row of words for each. Of the kernel's own pages that is little."""
    user = is_user(f)
    words = {name: getattr(f, name).astype(numpy.uint64) for name in IDENTITY}
    for name in ("mapping", "index", "memcg_data", "mem_cgroup"):
        words[name] = numpy.where(user, words[name], numpy.uint64(0))
    # The swap entry, of what nothing else tells: who is in no file and in no process.
    alone = folio_test_swapcache(f) & (f.mapping == 0)
    words["private"] = numpy.where(alone, words["private"], numpy.uint64(0))
    result: Column = numpy.stack([*words.values(), user.astype(numpy.uint64)], axis=1)
    return result


def _same(before: Column, f: Folios) -> Column:
    """Return which folios are still those that were there. A file's that was truncated has lost its mapping only."""
    equal = before == identity(f)
    mapping = IDENTITY.index("mapping")
    truncated = (f.mapping == 0) & (before[:, mapping] != 0) & (before[:, mapping] & numpy.uint64(3) == 0)
    equal[:, mapping] |= truncated & f.lru
    return equal.all(axis=1) & ~is_tail(f) & ~is_free(f)


def surplus(f: Folios) -> Column:
    """
    Return how many references of a folio nothing explains; 0 for the kernel's own pages, of which mm does not say.

    Whoever tries to migrate a folio takes it off the LRU and holds it meanwhile. Somebody who offlines memory does so
    over and over to what does not move, and that is not what holds it.
    """
    taken = ~f.lru & ~PageHuge(f) & (f.batches == 0)
    return numpy.where(is_user(f), extra_references(f) - taken, 0)


def _gates_like_primary(verdicts: Verdicts) -> Column:
    """Return for each folio a mask of the gates that give the reason for which it was refused first."""
    names = [gate.reason.name for gate in verdicts.gates]
    masks = [sum(1 << i for i, other in enumerate(names) if other == name) for name in names]
    return numpy.array([*masks, 0], numpy.uint64)[verdicts.primary]


class Confirmation:
    """Refused folios of one scan, and what becomes of them."""

    def __init__(
        self, context: Context, paths: Sequence[Path], looks: Looks, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        """
        :param paths: As the target's kernel has them
        """
        self.looks = looks
        self.done = 0
        """Looks that were completed."""
        self.suspects = 0
        self.left_out = 0
        """Folios above :data:`MAX_SUSPECTS`."""
        self._context = context
        self._paths = list(paths)
        self._sleep = sleep
        self._parts: list[tuple[Column, Column, Column, Column, Column]] = []

    def add(self, f: Folios) -> int:
        """Note the refused folios of a memory block as the scan saw them. Return the number of the first of them."""
        first = self.suspects + self.left_out
        room = MAX_SUSPECTS - self.suspects
        if len(f) > room:
            self.left_out += len(f) - room
            f = f.select(numpy.arange(room))
        self.suspects += len(f)
        wanted = numpy.stack([_gates_like_primary(path.judge(f)) for path in self._paths])
        self._parts.append((f.pfn, f.order, identity(f), surplus(f), wanted))
        return first

    def run(self) -> None:
        """Look again, as often as was asked."""
        parts, self._parts = self._parts, []
        if not parts:
            return
        self._pfn, self._order, self._identity, self._first = (
            numpy.concatenate([part[i] for part in parts]) for i in range(4)
        )
        self._wanted = numpy.concatenate([part[4] for part in parts], axis=1)
        self._gone = numpy.zeros(self.suspects, dtype=bool)
        self._moved = numpy.zeros(self.suspects, dtype=bool)
        self._spared = numpy.zeros(self._wanted.shape, dtype=bool)
        self._spared_for_that = numpy.zeros(self._wanted.shape, dtype=bool)
        for _ in range(self.looks.number):
            pause_for(self.looks.interval, self._sleep)
            self._look()
            self.done += 1

    def label(self, number: int, path: int) -> Label | None:
        """
        Return what became of a folio; None if it was not looked at (often enough).

        :param number: As :meth:`add` counts them
        :param path: Index of the path that refused it
        """
        if self.done < self.looks.number or number >= self.suspects:
            return None
        if self._gone[number]:
            return Label.GONE
        # Of a surplus that stays, others may come to refuse the folio besides, and before. One that did not stay says
        # nothing of how long the rest does.
        spared = self._spared if self._least[number] > 0 else self._spared_for_that
        return Label.TRANSIENT if self._moved[number] or spared[path, number] else Label.PERSISTENT

    def stays(self, number: int) -> int | None:
        """
        Return how many references of a folio nothing explains that were there at every look; None as for :meth:`label`,
        and of what is gone or contradicted itself throughout a look.

        :param number: As :meth:`add` counts them
        """
        if self.done < self.looks.number or number >= self.suspects or self._gone[number]:
            return None
        least = int(self._stays[number])
        return None if least == _UNKNOWN else max(least, 0)

    # -- one look ------------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        least = numpy.full(self.suspects, _UNKNOWN)
        readable = self._gone.copy()
        for i in range(READS):
            if i:
                self._sleep(random.uniform(*PAUSE))
            self._read(least, readable)
        self._gone |= ~readable  # the memory itself has gone
        if not self.done:
            self._least = self._stays = least
            self._moved |= least > self._first
        # Of what contradicted itself at every read, nothing is known but that it changes.
        self._moved |= (least == _UNKNOWN) | (least != self._least)
        self._stays = numpy.where(
            numpy.maximum(least, self._stays) == _UNKNOWN, _UNKNOWN, numpy.minimum(least, self._stays)
        )

    def _read(self, least: Column, readable: Column) -> None:
        """Read all that is not gone once more, and note the least surplus, and who is not refused any more."""
        which = numpy.flatnonzero(~self._gone)
        if not len(which):
            return
        context = self._now()
        order = which[numpy.argsort(self._pfn[which], kind="stable")]
        seen = read_again(context.memmap, self._pfn[order], self._order[order])
        readable[order[seen.there]] = True
        which = order[seen.there]
        same = _same(self._identity[which], context.memmap.folios(seen.rows))
        self._gone[which[~same]] = True
        which, rows = which[same], context.settled(seen.rows.select(same))
        f = context.folios(rows)
        refused = numpy.stack([path.judge(f).mask for path in self._paths])
        known = ~f.changing & ~is_frozen(f)
        self._spared[:, which] |= (refused == 0) & known & ~f.undecided
        self._spared_for_that[:, which] |= (refused & self._wanted[:, which] == 0) & known & ~f.undecided
        least[which[known]] = numpy.minimum(least[which[known]], surplus(f)[known])

    def _now(self) -> Context:
        """Return the context with what changes most often read anew, and no doubts of its own."""
        context = self._context
        batches = read_batches(context.prog, context.layout)
        return replace(context, batches=batches, doubts=Doubts(), _buffers=None, _ksm=None, _odd_pageblocks={})
