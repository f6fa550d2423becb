# SPDX-License-Identifier: LGPL-2.1-or-later
"""Build the programs that run in the guest."""

from __future__ import annotations

import hashlib
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

from .cache import cache_dir, new_directory

SOURCES = Path(__file__).parent / "workload"
PROGRAMS = {"lab": "main.c", "big": "big.c"}
# Static: the guest has no library, and no file system but the initramfs.
COMPILER = ("gcc", "-static", "-O1", "-Wall", "-Wextra", "-Werror")


def digest(paths: Iterable[Path]) -> str:
    """Return a short hash of the contents and names of files."""
    sha = hashlib.sha256()
    for path in sorted(paths):
        sha.update(f"{path.name} {path.stat().st_size}\n".encode())
        sha.update(path.read_bytes())
    return sha.hexdigest()[:12]


def sources(program: str) -> list[Path]:
    """Return all files that make up one of the programs: what is shared, and the file with its main()."""
    others = set(PROGRAMS.values()) - {PROGRAMS[program]}
    return sorted(p for p in SOURCES.iterdir() if p.suffix in {".c", ".h"} and p.name not in others)


def build(program: str) -> Path:
    """Return a static binary, built when its sources have changed."""
    directory = cache_dir() / "build" / f"{program}-{digest(sources(program))}"
    if not directory.exists():
        with new_directory(directory) as scratch:
            files = [str(path) for path in sources(program) if path.suffix == ".c"]
            subprocess.run([*COMPILER, "-o", str(scratch / "init"), *files], check=True)
    return directory / "init"


def scenarios() -> set[str]:
    """Return the names of all scenarios, as their tables in the sources list them."""
    names = {"hugetlb_free"}  # has no process: see report.c
    for path in SOURCES.glob("scenarios_*.c"):
        names.update(re.findall(r'\{"(\w+)", \w+\}', path.read_text()))
    return names
