# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tasks that sleep while they read, write, sync or truncate a file, or wait for a folio: what they have meanwhile."""

from __future__ import annotations

from collections.abc import Iterator

from .ground import Ground
from .model import Claim, Owner, Walker
from .waiting import TABLES, uses

_TYPES = ("struct wait_page_queue", "struct wait_queue_head", "struct wait_queue_entry")


def _claims(ground: Ground, of_faults: bool) -> Iterator[Claim]:
    for one in uses(ground):
        by: dict[str, list[int]] = {}
        for (fault, page), what in one.pages.items():
            if fault == of_faults:
                by.setdefault(what, []).append(page)
        for what, pages in by.items():
            yield Claim(Owner(what, task=one.task), ground.pfns(pages), gets=1, exact=False)


def walk(ground: Ground) -> Iterator[Claim]:
    """Yield what tasks have that are in no page fault."""
    yield from _claims(ground, False)


def walk_faults(ground: Ground) -> Iterator[Claim]:
    """Yield what page faults have."""
    yield from _claims(ground, True)


WALKERS = (
    Walker(
        kind="page-io",
        summary="a page that a task reads, writes or waits for: read(2), fsync(2), truncation",
        frees="wait for the disk or server; if it does not answer, mend or remove it, or end the process that waits",
        walk=walk,
        types=_TYPES,
        symbols=TABLES,
        transient=True,
    ),
    Walker(
        kind="fault",
        summary="a page that a page fault waits for: read from a file or swap area, or about to become writable",
        frees="wait for the disk or server, or thaw the file system; or end the process that waits",
        walk=walk_faults,
        types=_TYPES,
        symbols=TABLES,
        transient=True,
    ),
)
