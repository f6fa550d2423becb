# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is installed is what is tested: the wheel has every module, and the command in it starts."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

from .tree import ROOT, files

# In a process of its own: setuptools changes directories and prints. What builds is what pyproject.toml asks for.
BUILD = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built from a copy, so that nothing left over from an earlier build gets in."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for file in files():
        copy = source / file.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, copy)
    result = subprocess.run(
        [sys.executable, "-c", BUILD, str(target)], cwd=source, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    (built,) = target.glob("*.whl")
    return built


def test_wheel_has_every_module_and_nothing_else(wheel: Path) -> None:
    """A package that pyproject.toml does not find is missed by users only: tests run from the checkout."""
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    own = {file.relative_to(ROOT).as_posix() for file in files() if file.relative_to(ROOT).parts[0] == "drgn_thp"}
    assert packed == own
    assert {"drgn_thp/py.typed", "drgn_thp/target/opening.py", "drgn_thp/gates/contig.py"} <= packed


def test_metadata(wheel: Path) -> None:
    """What package indexes and installers read."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = message_from_bytes(archive.read(next(n for n in names if n.endswith(".dist-info/METADATA"))))
    assert metadata["License-Expression"] == "LGPL-2.1-or-later"
    assert metadata["Requires-Python"] == ">=3.9"
    assert "drgn>=0.0.33" in metadata.get_all("Requires-Dist", [])
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_command_of_the_wheel_starts(wheel: Path, tmp_path: Path) -> None:
    """Its discovery of paths and formats must work where it is installed, too."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")

    def said(*arguments: str) -> str:
        result = subprocess.run(
            [sys.executable, "-m", "drgn_thp", *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (result.returncode, result.stderr) == (0, "")
        return result.stdout

    for word in ("alloc_contig_range()", "ndjson"):
        assert word in said("report", "--help")
    assert re.fullmatch(r"drgn-thp \d\S*, drgn \d\S*, Python 3\.\S+\n", said("--version"))
