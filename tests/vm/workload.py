# SPDX-License-Identifier: LGPL-2.1-or-later
"""Build the programs that run in the guest."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterable
from pathlib import Path

from .cache import cache_dir, new_directory

SOURCES = Path(__file__).parent / "workload"
# Static: the guest has no library, and no file system but the initramfs.
COMPILER = ("gcc", "-static", "-O1", "-Wall", "-Wextra", "-Werror")


def digest(paths: Iterable[Path]) -> str:
    """Return a short hash of the contents and names of files."""
    sha = hashlib.sha256()
    for path in sorted(paths):
        sha.update(f"{path.name} {path.stat().st_size}\n".encode())
        sha.update(path.read_bytes())
    return sha.hexdigest()[:12]


def sources() -> list[Path]:
    """Return all files that make up the workload."""
    return sorted(path for path in SOURCES.iterdir() if path.suffix in {".c", ".h"})


def build() -> Path:
    """Return the workload as one static binary, built when its sources have changed."""
    directory = cache_dir() / "build" / digest(sources())
    if not directory.exists():
        with new_directory(directory) as scratch:
            files = [str(path) for path in sources() if path.suffix == ".c"]
            subprocess.run([*COMPILER, "-o", str(scratch / "init"), *files], check=True)
    return directory / "init"
