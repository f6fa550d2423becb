# SPDX-License-Identifier: LGPL-2.1-or-later
"""Build the programs that run in the guest: one for each folder in ``workload``."""

from __future__ import annotations

import hashlib
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

from .cache import cache_dir, new_directory

SOURCES = Path(__file__).parent / "workload"
# Static: the guest has no library, and no file system but the initramfs.
# What programs use of another one's folder.
_PINS = ("pins/common.c", "pins/disk.c", "pins/held.c", "pins/pins.h")
_HOLDERS = ("holders/main.c", "holders/holdings.c", "holders/holders.h")
BORROWED = {
    "churn": ("inside/python.c", "inside/python.h"),
    "holders": _PINS,
    "drivers": (*_HOLDERS, "pins/common.c", "pins/held.c", "pins/pins.h"),
    "isolated": (*_PINS, *_HOLDERS, "holders/waiting.c"),
}
COMPILER = ("gcc", "-static", "-O1", "-Wall", "-Wextra", "-Werror")


def digest(paths: Iterable[Path], words: str = "") -> str:
    """Return a short hash of the contents and names of files, and of other words."""
    sha = hashlib.sha256(words.encode())
    for path in sorted(paths):
        sha.update(f"{path.name} {path.stat().st_size}\n".encode())
        sha.update(path.read_bytes())
    return sha.hexdigest()[:12]


def sources(program: str) -> list[Path]:
    """
    Return all files that make up a program: those of its own folder, and the shared ones.

    A file of the folder, or one that it borrows, takes the place of the shared one of the same name: so a program may
    have a main() of its own.
    """
    own = [p for p in (SOURCES / program).iterdir() if p.suffix in {".c", ".h"}]
    shared = [p for p in SOURCES.iterdir() if p.suffix in {".c", ".h"}]
    own = sorted(own) + [SOURCES / name for name in BORROWED.get(program, ())]
    return own + sorted(p for p in shared if p.name not in {o.name for o in own})


def build(program: str) -> Path:
    """Return a static binary, built when its sources have changed."""
    directory = cache_dir() / "build" / f"{program}-{digest(sources(program))}"
    if not directory.exists():
        with new_directory(directory) as scratch:
            files = [str(path) for path in sources(program) if path.suffix == ".c"]
            subprocess.run([*COMPILER, "-o", str(scratch / "init"), *files], check=True)
    return directory / "init"


def scenarios(program: str) -> set[str]:
    """Return the names of all scenarios of a program, as the tables in its sources list them."""
    tables = "".join(path.read_text() for path in (SOURCES / program).glob("scenarios_*.c"))
    return set(re.findall(r'\{"(\w+)", \w+\}', tables))
