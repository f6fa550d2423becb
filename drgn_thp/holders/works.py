# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Work items of the kernel's workqueues: the one that a worker runs, those that it has taken, and those that wait.

What is freed by a work item is often pointed to by nothing else any more.
"""

from __future__ import annotations

from collections.abc import Iterator

from .ground import Ground

WORK, WORKER, POOL = "struct work_struct", "struct worker", "struct worker_pool"
QUEUE, PER_POOL = "struct workqueue_struct", "struct pool_workqueue"


def works(ground: Ground, function: int) -> Iterator[int]:
    """
    Yield the address of each work item of a function, once. What cannot be followed is counted by ``ground.outcome``.

    :param function: Address of what the work item does
    :raises LookupError: if nothing describes workqueues, or says where they are
    """
    pools, queues = ground.symbol("worker_pool_idr"), ground.symbol("workqueues")
    if pools is None or queues is None:
        raise LookupError("the addresses of worker_pool_idr and workqueues are not known")
    seen: set[int] = set()
    for work in _all(ground, pools, queues, function):
        if work not in seen:
            seen.add(work)
            yield work


def _all(ground: Ground, pools: int, queues: int, function: int) -> Iterator[int]:
    for _, pool in ground.xarray(pools + ground.offset("struct idr", "idr_rt")):
        with ground.part(f"pool of workers {pool:#x}"):
            yield from _listed(ground, pool + ground.offset(POOL, "worklist"), function)
            at = ground.offset(WORKER, "node")
            for worker in ground.entries(pool + ground.offset(POOL, "workers"), at):
                # What the work item was may be forgotten by now, or freed; the worker knows.
                if ground.pointer(WORKER, worker, "current_func") == function:
                    yield ground.pointer(WORKER, worker, "current_work")
                yield from _listed(ground, worker + ground.offset(WORKER, "scheduled"), function)
    # More than may run at a time wait where no pool knows of them.
    for queue in ground.entries(queues, ground.offset(QUEUE, "list")):
        with ground.part(f"workqueue {queue:#x}"):
            at = ground.offset(PER_POOL, "pwqs_node")
            for per_pool in ground.entries(queue + ground.offset(QUEUE, "pwqs"), at):
                yield from _listed(ground, per_pool + ground.offset(PER_POOL, _inactive(ground)), function)


def _inactive(ground: Ground) -> str:
    # f97a4a1a3f87 ("workqueue: Rename "delayed" (delayed by active management) to "inactive"") (in v5.15)
    return "inactive_works" if ground.has(PER_POOL, "inactive_works") else "delayed_works"


def _listed(ground: Ground, head: int, function: int) -> Iterator[int]:
    for work in ground.entries(head, ground.offset(WORK, "entry")):
        if ground.pointer(WORK, work, "func") == function:
            yield work
