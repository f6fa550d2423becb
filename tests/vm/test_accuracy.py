# SPDX-License-Identifier: LGPL-2.1-or-later
"""What docs/accuracy.md does not pass over: without a guest."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from .guest import GuestError
from .truth import accuracy, questions, run, said


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
