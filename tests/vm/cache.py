# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where the lab keeps what is slow to make, and how nothing half-made ever gets in there."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

# After which an entry that a newer one took the place of is thought to be in use by no other checkout.
UNUSED_SECONDS = 3 * 3600.0


def cache_dir() -> Path:
    """Return ``$DRGN_THP_CACHE``, or ``drgn_thp`` in the user's cache directory."""
    explicit = os.environ.get("DRGN_THP_CACHE")
    if explicit:
        return Path(explicit).resolve()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "drgn_thp"


@contextlib.contextmanager
def new_directory(target: Path) -> Iterator[Path]:
    """
    Yield a scratch directory that becomes ``target`` when the block succeeds, and vanishes when it does not.

    It is renamed into place, so that an interrupted run leaves no entry that looks complete. If another process was
    quicker, its directory stays: somebody may be reading it already.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield scratch
        scratch.chmod(0o755)
        try:
            scratch.rename(target)
        except OSError:
            if not target.exists():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def locked(target: Path) -> Iterator[None]:
    """Let one process at a time make an entry of the cache; whoever waited finds it made."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(target.with_name(f".{target.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def mark_used(target: Path) -> None:
    """Note that an entry is in use, for :func:`drop_superseded` of whatever checkout."""
    os.utime(target)


def drop_superseded(target: Path, name: str) -> None:
    """Remove the entries ``name``-anything that ``target`` took the place of, and that nobody used for some hours."""
    oldest = time.time() - UNUSED_SECONDS
    for entry in target.parent.glob(f"{name}-*"):
        with contextlib.suppress(FileNotFoundError):
            if entry != target and entry.stat().st_mtime < oldest:
                shutil.rmtree(entry)
                entry.with_name(f".{entry.name}.lock").unlink(missing_ok=True)
