# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Write what in the documentation follows from the code: ``python -m drgn_thp.docgen``, in a checkout.

That is docs/reasons.md as a whole, and what README.md has between ``<!-- begin NAME -->`` and ``<!-- end NAME -->``.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import runpy
import sys
from collections.abc import Iterable, Iterator
from dataclasses import fields, replace
from itertools import groupby
from pathlib import Path as File
from typing import Any

from .gates import Duration, Gate, Path, paths, reasons_of
from .holders import built_in
from .holders.model import SOON
from .kernel import Kernel, RacyCheck

ROOT = File(__file__).resolve().parent.parent
REASONS, README, MATRIX = "docs/reasons.md", "README.md", "tests/vm/matrix.py"
ACCURACY = "docs/accuracy.json"

_INTRODUCTION = """\
# Reasons for refusal

<!-- Written by python -m drgn_thp.docgen from drgn_thp/gates: edit there. -->

Every word that a report gives as `reason` or `also`, with each check that gives it: the kernel function that checks and
what it answers, for how long it goes on refusing, and which kernels have the check. "if" and "unless" name a trait of
the kernel; `drgn_thp/kernel.py` says which change brought it, and `drgn_thp/traits.py` how it is told of a target.

*Observed* are reasons that were given for a folio of a real kernel's memory, *refused* where that kernel, asked to do
it, did refuse, and *confirmed* where it also told the errno or the step that goes with the reason:
[accuracy.md](accuracy.md).
"""

_HOLDERS = """\
## Holders

Who holds a folio that is refused for its references, as `--holders` finds it ([holders.md](holders.md)). Written from
drgn_thp/holders.
"""


def generate(root: File = ROOT) -> dict[File, str]:
    """Return the contents of every file that is generated, or partly so."""
    readme = (root / README).read_text(encoding="utf-8")
    for name, text in (("paths", _paths_table()), ("kernels", _kernels_table(root / MATRIX))):
        readme = _between_markers(readme, name, text)
    accuracy = json.loads((root / ACCURACY).read_text(encoding="utf-8"))["reasons"]
    return {root / REASONS: _reasons(accuracy), root / README: readme}


def _between_markers(text: str, name: str, content: str) -> str:
    begin, end = f"<!-- begin {name} -->\n", f"<!-- end {name} -->"
    pattern = re.compile(f"({re.escape(begin)}).*?({re.escape(end)})", re.DOTALL)
    replaced, count = pattern.subn(lambda match: match[1] + content + match[2], text)
    if count != 1:
        raise ValueError(f"{README} has {count} places between {begin.strip()} and {end}")
    return replaced


def _table(headings: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    headings = list(headings)
    lines = [headings, ["---"] * len(headings), *(list(row) for row in rows)]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


# -- docs/reasons.md ---------------------------------------------------------------------------------------------------


def _reasons(accuracy: dict[str, dict[str, dict[str, int]]]) -> str:
    parts = [_INTRODUCTION, "## For how long\n", _durations(), "## Paths\n"]
    for path in paths().values():
        parts.append(f"**`{path.name}`**: {path.summary}. Its checks, in the order of the kernel:\n{_order(path)}.\n")
    parts.append("## Reasons\n")
    for reason in reasons_of().values():
        parts.append(f"### {reason.name}\n")
        parts.append(f"{reason.meaning}\n")
        parts.append(f"What to do: {reason.advice}\n")
        parts.append(f"{_seen(accuracy.get(reason.name, {}))}\n")
        if reason.only_counted:
            parts.append("Where there are any, there are many: reports as text count them, but do not list them.\n")
        gates = [(path, gate) for path in paths().values() for gate in path.gates if gate.reason is reason]
        rows = ((f"`{path.name}`", f"`{gate.kernel}`", _lasts(gate), _kernels(gate)) for path, gate in gates)
        parts.append(_table(("path", "check", "lasts", "kernels"), rows))
    parts.append(_HOLDERS)
    parts.append(_table(("kind", "holds", "what frees it"), _holders()))
    return "\n".join(parts)


def _holders() -> Iterator[tuple[str, str, str]]:
    for kind, walker in built_in().items():
        yield f"`{kind}`", walker.summary, walker.frees + SOON * walker.transient


def _seen(kernels: dict[str, dict[str, int]]) -> str:
    """Say on which kernels a reason was seen, and what these kernels did."""
    if not kernels:
        return "Never observed on a kernel, only on made-up memory."
    words = []
    for verb in ("observed", "refused", "confirmed"):
        names = sorted((name for name, counts in kernels.items() if counts.get(verb)), key=_version)
        words.append(f"{verb} on {', '.join(names)}" if names else f"never {verb}")
    return "; ".join(words).capitalize() + "."


def _version(name: str) -> list[int]:
    return [int(part) for part in name.split(".")]


def _durations() -> str:
    """Say what each duration means: the documentation of the enumeration's members, which is lost at run time."""
    (definition,) = ast.parse(inspect.getsource(Duration)).body
    assert isinstance(definition, ast.ClassDef)
    statements = definition.body
    rows = []
    for statement, following in zip(statements, statements[1:]):
        if isinstance(statement, ast.Assign) and isinstance(following, ast.Expr):
            rows.append((f"`{ast.literal_eval(statement.value)}`", str(ast.literal_eval(following.value))))
    assert len(rows) == len(Duration), "a Duration without documentation"
    return _table(("lasts", "meaning"), rows)


def _order(path: Path) -> str:
    names = dict.fromkeys(f"[{gate.reason.name}](#{gate.reason.name})" for gate in path.gates)
    return ",\n".join(names)


def _lasts(gate: Gate) -> str:
    return gate.duration.value + (", **wrongly**" if gate.wrongly else "")


def _kernels(gate: Gate) -> str:
    """Say in which kernels there is a check, by changing one trait at a time."""
    conditions = []
    for name, values in _traits():
        with_it, without = (gate.when(replace(Kernel(), **{name.split(".")[0]: value})) for value in values)
        if with_it != without:
            conditions.append(f"{'if' if with_it else 'unless'} `{name}`")
    return " and ".join(conditions) or ("all" if gate.when(Kernel()) else "none")


def _traits() -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Yield what kernels may have or not, with the values that say so."""
    for field in fields(Kernel):
        if isinstance(field.default, bool):
            yield field.name, (True, False)
    yield "racy_check.old", (RacyCheck(True, ""), RacyCheck(False, ""))


# -- README.md ---------------------------------------------------------------------------------------------------------


def _paths_table() -> str:
    return _table(("path", "what it is"), ((f"`{path.name}`", path.summary) for path in paths().values()))


def _kernels_table(matrix: File) -> str:
    """Return the table of supported kernels: those that the tests boot."""
    rows = []
    for kernel in runpy.run_path(str(matrix))["KERNELS"]:
        lacks = ", ".join(_groups(kernel.lacks))
        suites = ", ".join(kernel.suites)
        rows.append((kernel.name, f"Debian {suites} ({kernel.flavour})", f"all but {lacks}" if lacks else "all"))
    return _table(("kernel", "build that is tested", "scenarios"), rows)


def _groups(names: Iterable[str]) -> Iterator[str]:
    """Yield names; those of a family as one, with their number."""
    for family, some in groupby(sorted(names), lambda name: name.partition("_")[0]):
        members = list(some)
        yield from [f"{len(members)} of `{family}`"] if len(members) > 2 else (f"`{name}`" for name in members)


def main() -> None:
    """Write the files that are out of date, and name them."""
    if not (ROOT / MATRIX).exists():
        sys.exit(f"{ROOT} is no checkout of drgn_thp: there is no {MATRIX}")
    for file, text in generate().items():
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")
            print(file.relative_to(ROOT))


if __name__ == "__main__":
    main()
