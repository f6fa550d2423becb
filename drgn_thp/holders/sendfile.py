# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What sendfile(2) and the like have on their way from one file to another: in a pipe of the task, which is no file.
"""

from __future__ import annotations

from collections.abc import Iterator

from .ground import Ground
from .model import Claim, Owner, Walker
from .pipes import BUFFER, PIPE, Rings

TASK = "struct task_struct"


def walk(ground: Ground) -> Iterator[Claim]:
    """Yield what is in the pipe of each task that has one."""
    rings, pipe_at = Rings(ground), ground.offset(TASK, "splice_pipe")
    for task in ground.files.tasks.by_address:
        with ground.part(f"pipe of task {task:#x}"):
            pipe = ground.word(task + pipe_at)
            pages = rings.contents(pipe) if pipe else []
            if len(pages):
                yield Claim(Owner("sendfile", task=task), ground.pfns(pages), gets=1)


WALKERS = (
    Walker(
        kind="sendfile",
        summary="a page that sendfile(2) has taken from a file, and not yet been rid of",
        frees="read from where it is sent to, or end the process that sends",
        walk=walk,
        types=(PIPE, BUFFER),
    ),
)
