# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The rules of docs/design.md that a reader cannot be expected to check.

The table of layers in that document is the list that is tested: a new module is placed there, or the test fails.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from drgn_thp.facts import FACTS, FLAGS

from .tree import PACKAGE, ROOT, files, table_after

THIRD_PARTY = {"drgn", "numpy", "tabulate", "tqdm"}
# Spelled in pieces, so that this file does not find itself.
MACHINE = re.compile(
    "|".join(
        (
            "/" + r"(?:root|work|home/\w+|tmp/venv|opt/(?:wheels|pypi))\b",
            r"\bdeb\." + r"debian\.org",
            r"\bsnapshot\." + r"debian\.org",
            r"\bpypi\." + r"org|pythonhosted\." + r"org",
            r"(?<![\d.])(?:10\.\d+|192\.168|172\.(?:1[6-9]|2\d|3[01]))\.\d+\.\d+(?![\d.])",
        )
    )
)


def module_name(path: Path) -> str:
    """Return ``gates.contig`` for drgn_thp/gates/contig.py, ``gates`` for its ``__init__.py``."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


@cache
def paths() -> dict[str, Path]:
    """Return the modules of the package."""
    return {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@cache
def imports(name: str) -> tuple[set[str], set[str]]:
    """Return the modules of the package that a module imports, anywhere in it, and the third-party packages."""
    path = paths()[name]
    package = path.relative_to(PACKAGE).parent.parts
    own: set[str] = set()
    others: set[str] = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                _add(alias.name.split("."), own, others)
        elif isinstance(node, ast.ImportFrom):
            module = (node.module or "").split(".") if node.module else []
            if not node.level:
                _add(module, own, others)
                continue
            base = [*package[: len(package) - node.level + 1], *module]
            # "from . import reasons" names modules, "from .model import Gate" names what is in one.
            for alias in node.names:
                full = ".".join([*base, alias.name])
                own.add(full if full in paths() else ".".join(base) or "__init__")
    return own - {name}, others


def _add(parts: list[str], own: set[str], others: set[str]) -> None:
    if parts[0] == "drgn_thp":
        own.add(".".join(parts[1:]) or "__init__")
    elif parts[0] in THIRD_PARTY:
        others.add(parts[0])


def layers() -> list[tuple[list[str], set[str]]]:
    """Return the rows of the table of layers, top first: modules (``gates/`` for a package), and what they may know."""
    rows = table_after("docs/design.md", "<!-- layers -->")
    return [(re.findall(r"`([^`]+)`", modules), set(re.findall(r"`(\w+)`", knows))) for _, modules, knows, _ in rows]


def unit(module: str) -> str:
    """Return what stands in the table for a module: itself, or the package it is in, as ``gates/``."""
    head = module.split(".")[0]
    return head + "/" if (PACKAGE / head).is_dir() else head


def test_every_module_has_one_place() -> None:
    """Who adds a module says where it belongs; who removes one removes its place."""
    placed = [module for modules, _ in layers() for module in modules]
    assert len(placed) == len(set(placed))
    assert set(placed) == {unit(name) for name in paths()}


def test_imports_point_down() -> None:
    """Also those inside of functions and for type checkers: what may not be known may not be named."""
    rank = {module: row for row, (modules, _) in enumerate(layers()) for module in modules}
    wrong = [
        f"{name} imports {other}"
        for name in paths()
        for other in sorted(imports(name)[0])
        if unit(other) != unit(name) and rank[unit(other)] <= rank[unit(name)]
    ]
    assert wrong == []


def test_no_cycles_inside_packages() -> None:
    """A package stands in one row; within it, too, there is an order."""
    assert list(TopologicalSorter({name: imports(name)[0] for name in paths()}).static_order())


def reachable(name: str) -> set[str]:
    """Return everything that a module imports, directly or not."""
    seen: set[str] = set()
    pending = [name]
    while pending:
        for other in imports(pending.pop())[0] - seen:
            seen.add(other)
            pending.append(other)
    return seen


def test_modules_know_what_the_table_says() -> None:
    """No more and no less: what knows no drgn runs, and is tested, on plain tables."""
    reached: dict[str, set[str]] = {module: set() for modules, _ in layers() for module in modules}
    for name in paths():
        reached[unit(name)].update(*(imports(other)[1] for other in {name, *reachable(name)}))
    for modules, knows in layers():
        assert set().union(*(reached[module] for module in modules)) == knows, modules


@pytest.mark.parametrize("name", ["formulas", "gates", "render"])
def test_knows_no_drgn(name: str) -> None:
    """Whatever the table says: formulas and gates hold for columns of any origin, formats for any report."""
    for module in paths():
        if module.split(".")[0] == name:
            for other in {module, *reachable(module)}:
                assert "drgn" not in imports(other)[1], f"{module} -> {other}"


def literals(tree: ast.Module) -> Iterator[str]:
    """Yield the string literals of a module that are not documentation."""
    statements = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in statements:
            yield node.value


def members() -> set[str]:
    """Return the members of struct page and struct folio by which they can be told from names of facts and flags."""
    spelled = {word for fact in FACTS for place in fact.places for word in (place.member, place.member.split(".")[0])}
    return spelled - {fact.name for fact in FACTS} - {flag.name for flag in FLAGS} - {"flags"}


def test_only_facts_spell_members() -> None:
    """A kernel that moves a field is one line in facts.py, so nobody else may look for one."""
    assert {"_refcount", "compound_head", "_flags_1", "compound_order"} <= members()
    found: set[tuple[str, str]] = set()
    for name, path in paths().items():
        if name == "facts" or name.startswith("target."):  # target knows what drgn's helpers need, not ours
            continue
        tree = tree_of(path)
        attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        found.update((name, word) for word in {*literals(tree), *attributes} & members())
    assert found == set()


def test_only_the_command_line_speaks() -> None:
    """Everything else returns data, or writes to the stream that it is given."""
    for name, path in paths().items():
        named = {node.id for node in ast.walk(tree_of(path)) if isinstance(node, ast.Name)}
        assert name.split(".")[0] in {"cli", "docgen"} or not named & {"print", "input"}, name


def test_importing_costs_nothing() -> None:
    """drgn imports every installed plugin at each start: it must not wait for numpy, nor see a word."""
    code = "import sys, drgn_thp; sys.exit(len({'numpy', 'drgn', 'tabulate', 'tqdm'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


SOURCES = {".py", ".c", ".h", ".sh"}


def is_source(path: Path) -> bool:
    return path.suffix in SOURCES or (not path.suffix and path.read_bytes().startswith(b"#!"))


def test_every_source_has_its_licence() -> None:
    """The first line says it, or the second one of a script."""
    without = [
        str(path.relative_to(ROOT))
        for path in files()
        if is_source(path)
        and not any(
            "SPDX-License-Identifier: LGPL-2.1-or-later" in line
            for line in path.read_text(encoding="utf-8").splitlines()[:2]
        )
    ]
    assert without == []


def test_nothing_of_the_machine_it_was_written_on() -> None:
    """Paths and hosts of one machine mean nothing on another one, and tell what is none of anybody's business."""
    found = []
    for path in files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [f"{path.relative_to(ROOT)}: {match[0]}" for match in MACHINE.finditer(text)]
    assert found == []


def test_top_level_holds_what_it_should() -> None:
    """A file at the top is the first thing that everybody sees."""
    expected = {
        *("pyproject.toml", "drgn_thp", "contrib-scripts", "tests", "README.md", "LICENSE", "CHANGELOG.md", "docs"),
        *(".ci", ".gitignore"),
    }
    assert {path.relative_to(ROOT).parts[0] for path in files()} <= expected
