# SPDX-License-Identifier: LGPL-2.1-or-later
"""The files of this checkout, and the tables in its documents, for the tests of documentation and architecture."""

from __future__ import annotations

import subprocess
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "drgn_thp"


def files() -> list[Path]:
    """Return every file that belongs to the project, also those not committed yet: what git does not ignore."""
    command = [
        "git",
        "-c",
        "safe.directory=*",
        "-C",
        str(ROOT),
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]
    try:
        names = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\0")
        found = [ROOT / name for name in names if name]
    except (OSError, subprocess.CalledProcessError):  # an unpacked archive, or no git
        found = [path for path in ROOT.rglob("*") if not any(map(_is_ignored, path.relative_to(ROOT).parts))]
    return sorted(path for path in set(found) if path.is_file())


def _is_ignored(name: str) -> bool:
    """Return whether git would ignore what has this name, as .gitignore has it."""
    lines = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    return name == ".git" or any(fnmatch(name, line.rstrip("/")) for line in lines if line)


def table_after(document: str, marker: str) -> list[list[str]]:
    """
    Return the rows of the first table after a marker in a document, without its heading.

    :param document: Path below the root of the checkout
    """
    text = (ROOT / document).read_text(encoding="utf-8")
    _, found, after = text.partition(marker)
    assert found, f"{document} has no {marker!r}"
    rows: list[list[str]] = []
    for line in after.splitlines():
        if line.startswith("|"):
            rows.append([cell.strip() for cell in line.strip("|").split("|")])
        elif rows:
            break
    assert len(rows) > 2, f"{document}: no table after {marker!r}"
    return rows[2:]
