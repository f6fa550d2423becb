# SPDX-License-Identifier: LGPL-2.1-or-later
"""What docs/accuracy.md does not pass over: without a guest."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from .guest import GuestError
from .truth import accuracy, questions, run, said
from .truth.log import Shown, dumped, stages_told

# Of 6.1, abridged.
CONSOLE = """\
[   12.100000] failed to isolate pfn 10004d
[   12.100001] page:0000000038b3202b refcount:3 mapcount:0 mapping:000000006f51e7be index:0x1 pfn:0x10004d
[   12.100002] page dumped because: isolation failed
[   12.200000] migrating pfn 101400 failed ret:1
[   12.200001] page:00000000e707126f refcount:515 mapcount:1 mapping:00000000e6a3c14d index:0x0 pfn:0x101400
[   12.200002] head:00000000e707126f order:9 compound_mapcount:1 compound_pincount:0
[   12.200003] aops:shmem_aops ino:5 dentry name(?):"page dumped because: unmovable page"
[   12.200004] page dumped because: migration failure
[   12.300000] page:00000000a9deb476 refcount:1 mapcount:0 mapping:0000000000000000 index:0x0 pfn:0x102a00
[   12.300001] anon flags: 0xfffffc0080004(uptodate|lru|swapbacked|node=0|zone=1|lastcpupid=0x1fffff)
[   12.300002] page dumped because: unmovable page
"""


def test_what_the_kernel_prints() -> None:
    """Each page frame with the step at which it failed."""
    assert stages_told(CONSOLE) == {0x10004D: "isolation", 0x101400: "migration"}
    assert dumped(CONSOLE, "migration failure") == {0x101400: Shown(515, lru=False)}
    assert dumped(CONSOLE, "unmovable page") == {0x102A00: Shown(1, lru=True)}


def test_a_guest_that_crashes_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was answered before is kept, and what was not is said."""

    def crash(*_: object) -> Any:
        raise GuestError("the guest went away at 'used 1 2'\nKernel panic")

    monkeypatch.setattr(said, "read", lambda dump: SimpleNamespace(folios=[], blocks=[]))
    monkeypatch.setattr(questions, "move", lambda *_: {})
    monkeypatch.setattr(questions, "split", crash)
    dump: Any = SimpleNamespace(kernel="6.12", release="6.12.1", scene=SimpleNamespace(name="huge"))
    result = run.ask(dump)
    assert list(result.costs) == ["mbind", "mbind-move-all"]
    (line,) = [line for line in accuracy.page([result], [], accuracy.summary([result], [], 0)) if "to the end" in line]
    assert line == "**Not answered to the end**: 6.12, scene huge: the guest went away at 'used 1 2'."
