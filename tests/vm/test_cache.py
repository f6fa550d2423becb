# SPDX-License-Identifier: LGPL-2.1-or-later
"""The cache of the lab does not grow for ever, and takes nothing away that is in use."""

from __future__ import annotations

import os
import time
from pathlib import Path

from .cache import UNUSED_SECONDS, drop_superseded, locked, mark_used


def test_superseded_entries_go(tmp_path: Path) -> None:
    """Only those of the same name, and that nobody used for long: another checkout may have them still."""
    long_ago = time.time() - UNUSED_SECONDS - 60
    for name in ("6.1-huge-new", "6.1-huge-old", "6.1-huge-used", "6.12-huge-old", "6.1-hugely-old"):
        with locked(tmp_path / name):
            (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (long_ago, long_ago))
    mark_used(tmp_path / "6.1-huge-used")
    drop_superseded(tmp_path / "6.1-huge-new", "6.1-huge")
    left = {path.name for path in tmp_path.iterdir() if path.is_dir()}
    assert left == {"6.1-huge-new", "6.1-huge-used", "6.12-huge-old", "6.1-hugely-old"}
    assert not (tmp_path / ".6.1-huge-old.lock").exists()
    assert (tmp_path / ".6.1-huge-new.lock").exists()
