# SPDX-License-Identifier: LGPL-2.1-or-later
"""Documentation says what the program does: nothing is described that is not there, and nothing there is left out."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy
import pytest

from drgn_thp import docgen, holdings, ledger
from drgn_thp import report as report_module
from drgn_thp.batches import Batches
from drgn_thp.blocks import Block
from drgn_thp.census import BlockCensus, Obstacles, PathCensus
from drgn_thp.cli import _parser
from drgn_thp.confirm import Label, Looks
from drgn_thp.context import Context, Doubts
from drgn_thp.describe import SCHEMA, SHOWN_FLAGS, Record
from drgn_thp.folios import Folios, table
from drgn_thp.formulas import PAGE_MAPPING_ANON
from drgn_thp.gates import Duration, find_path, paths, reasons_of
from drgn_thp.holders import built_in
from drgn_thp.holders.balance import Sheet
from drgn_thp.holders.model import Owner
from drgn_thp.holders.running import Held
from drgn_thp.kernel import Kernel
from drgn_thp.mapping_kinds import MappingKind, MigrateOp
from drgn_thp.page_owner import Allocation
from drgn_thp.pagetype import NAMES, PageType
from drgn_thp.render.text import FOLIO_HEADERS
from drgn_thp.resources import Resources
from drgn_thp.virtio_mem import Device, VirtioMem
from drgn_thp.whose import Found

from .tree import ROOT, files, table_after
from .vm.lab import ensure_dump
from .vm.matrix import KERNELS
from .vm.matrix import Kernel as MatrixKernel

SCHEMA_PAGE = "docs/schema.md"
PAGES = [path.relative_to(ROOT).as_posix() for path in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])]

# -- what the page on the schema says ----------------------------------------------------------------------------------


def documented(kind: str) -> dict[str, str]:
    """Return the fields of a kind of record, and the type of each, as documented."""
    rows = table_after(SCHEMA_PAGE, f"<!-- fields {kind} -->")
    fields = {name.strip("`"): type_ for name, type_, _ in rows}
    assert len(fields) == len(rows), f"a field of {kind} is documented twice"
    return fields


def flatten(record: Record, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every field of a record as the page spells it: ``paths.<path>.refused``."""
    for name, value in record.items():
        word = name
        if prefix:  # below the top, keys may be names of things
            for kind, names in NAMED:
                # A word may be more than one of these: "transient" is a duration and a label, "lru-batch" a reason and
                # a kind of holder.
                only = ONLY.get(kind)
                below = any(prefix.startswith(place) for place in ONLY.values())
                if name in names and (prefix.startswith(only) if only else not below):
                    word = kind
        yield prefix + word, value
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{word}.")


LABELS = {label.value for label in Label}
DURATIONS = {duration.value for duration in Duration}
NAMED = (
    ("<holder>", built_in()),
    ("<path>", paths()),
    ("<reason>", reasons_of()),
    ("<duration>", DURATIONS),
    ("<label>", LABELS),
)
ONLY = {"<holder>": "holders.advice.", "<label>": "confirm.paths.<path>."}
TYPES: dict[str, type] = {"string": str, "number": float, "integer": int, "boolean": bool, "object": dict}


def is_of(value: Any, type_: str) -> bool:
    """Return whether a value is of a type as the page spells it."""
    alternatives = type_.split(" or ")
    if value is None:
        return "null" in alternatives
    (plain,) = (name for name in alternatives if name != "null")
    if plain.startswith("array of "):
        element = plain[len("array of ") :].rstrip("s")
        return type(value) is list and all(type(item) is TYPES[element] for item in value)
    return type(value) is TYPES[plain]


def check(records: Iterable[Record]) -> dict[str, dict[str, set[bool]]]:
    """
    Check every value against its documented type.

    :return: The fields that were there, by kind, and whether they were null
    """
    types = {kind: documented(kind) for kind in ("folio", "block", "virtio_mem", "summary")}
    seen: dict[str, dict[str, set[bool]]] = {kind: {} for kind in types}
    for record in records:
        for field, value in flatten(record):
            assert field in types[record["kind"]], f"{field} of {record['kind']} is not documented"
            assert is_of(value, types[record["kind"]][field]), f"{field}: {value!r}"
            seen[record["kind"]].setdefault(field, set()).add(value is None)
    return seen


# -- records of made-up folios -----------------------------------------------------------------------------------------

ANON = 0x1000 | PAGE_MAPPING_ANON
KINDS = [MappingKind("", MigrateOp.PLAIN), MappingKind("anon", MigrateOp.PLAIN)]


MIB = 1 << 20
DRIVEN = Device(
    *(0, 4 * MIB, "driver", 2 * MIB, 4 * MIB, 4 * MIB, "sub-block"),
    node=0,
    device_block_size=2 * MIB,
    requested_size=0,
    usable_size=4 * MIB,
    states=("movable",),
    plugged_bits=(True, True),
    unplug_online=True,
    broken=False,
)
INFERRED = Device(8 * MIB, 12 * MIB, "inferred", 2 * MIB, 4 * MIB, 2 * MIB, first=2, plugged_bits=(True, False))


def folios() -> Folios:
    """An anonymous page as it should be, one that is held, and a page of the kernel that belongs to no zone."""
    return table(
        Kernel(),
        {
            "pfn": [16, 17, 18],
            "type": [PageType.NONE] * 3,
            "type_word": [0, 0, 0xFFFFFFFF],
            "refcount": [1, 2, 1],
            "mapping": numpy.array([ANON, ANON, 0], numpy.uint64),
            "mm_ids": numpy.zeros(3, numpy.uint64),
            "mapping_kind": [1, 1, 0],
            "lru": [True, True, False],
            "uptodate": [True, True, False],
            "zone": [3, 3, 7],
        },
        {"migrate_op": MigrateOp.PLAIN},
    )


def census(block: Block, refused: Folios | None) -> BlockCensus:
    """What a scan would say of a block with these folios."""
    counts = {path.name: PathCensus() for path in paths().values()}
    if refused is not None:
        for path in paths().values():
            counts[path.name].add(path.gates[0], 1, 1)
    found = BlockCensus(block, counts, folios=3, pages=3, zones={(0, 3): 3} if refused else {}, refused=refused)
    if block.id is not None:  # the first has a huge page that nothing can replace
        gates = find_path("contig").of(Kernel()).gates
        number = next(i for i, gate in enumerate(gates) if gate.stage == "out-of-memory")
        one = numpy.array([block.start_pfn] * (block.id == 0), numpy.int64)
        found.obstacles = Obstacles(one, one + 512, numpy.full_like(one, number))
    return found


# By a kernel that records who, by one that does not, and nobody's.
ALLOCATIONS = {
    16: Allocation(0, 0xCC0, 1, 1, "init", 1.5, ("post_alloc_hook+0x1",)),
    17: Allocation(0, 0xCC0, None, None, None, None, ()),
}


def made_up_records(monkeypatch: pytest.MonkeyPatch) -> list[Record]:
    """Return a whole report on two blocks, and what ``folio`` says of one of the pages."""
    table_of_all = folios()
    context = cast(
        Context,
        SimpleNamespace(
            kernel=table_of_all.kernel,
            layout=SimpleNamespace(zone_names=("DMA", "DMA32", "NORMAL", "MOVABLE"), vmemmap=0, page_struct_size=64),
            mappings=SimpleNamespace(kinds=KINDS, unreadable=1),
            zones=[],
            resources=Resources((), ()),
            batches=Batches((), ()),
            doubts=Doubts(),
            virtio_mem=VirtioMem((DRIVEN, INFERRED)),
            prog=None,
            sections=SimpleNamespace(index=lambda pfn: 0),
            end_pfn=1 << 20,
            folios=lambda rows: table_of_all,
            read_folio=lambda pfn: table_of_all,
            allocation=ALLOCATIONS.get,
            live=False,
        ),
    )
    blocks = [Block(0, 0, 1024, "online"), Block(None, 1024, 2048, "online"), Block(2, 2048, 3072, "online")]
    judged = [path.of(table_of_all.kernel) for path in paths().values()]
    scan = SimpleNamespace(
        paths=judged,
        blocks=lambda asked: iter(census(block, table_of_all) for block in blocks),
    )
    monkeypatch.setattr(ledger, "read_blocks", lambda prog, sections: (blocks, ["a note"]))
    monkeypatch.setattr(report_module, "list_blocks", lambda context: (blocks, ["a note"]))
    monkeypatch.setattr(report_module, "Scan", lambda *arguments: scan)
    records = list(report_module.Report(context, report_module.Question(judged)).records())
    # The same again, its folios looked at again.
    labels, references = iter([None, *Label]), iter([None, 0, 1])
    again = SimpleNamespace(
        add=lambda f: 0,
        run=lambda: None,
        label=lambda number, path: next(labels, None),
        stays=lambda number: next(references, None),
    )
    monkeypatch.setattr(report_module, "check_looks", lambda context, looks: None)
    monkeypatch.setattr(report_module, "Confirmation", lambda *arguments: again)
    records += report_module.Report(context, report_module.Question(judged, looks=Looks(1, 1))).records()
    # And with those who hold them, of whom nothing is known of the page of the kernel.
    pipe = Held("pipe", Owner("pipe", cpu=0), 1, 0, True, False)
    found = Found(Sheet(16, ((pipe, 1, ()),), 0, 0), (), 0, None)
    chain = {"confidence": "none", "pid": None, "comm": None, "fd": None, "file": False, "via": ["kmalloc-8"]}
    trail = replace(found, chains=(chain,))

    def table_of(one: Found) -> Any:
        return lambda f: SimpleNamespace(of=lambda pfn: one if pfn < 18 else None, passing=numpy.zeros(len(f), bool))

    whose = SimpleNamespace(problems=[], table=table_of(found))
    monkeypatch.setattr(holdings, "Whose", lambda context, tables, search: whose)
    records += report_module.Report(context, report_module.Question(judged, holders=True)).records()
    whose.table = table_of(trail)
    records += report_module.Report(context, report_module.Question(judged, holders=True, search=True)).records()
    for explanation in ledger.explain(context, ["0x10"], judged, holders=True):
        records += explanation.records
    return records


def test_every_field_is_documented_and_every_documented_field_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    """Field names, types and nulls are the schema."""
    seen = check(made_up_records(monkeypatch))
    for kind, fields in seen.items():
        assert set(fields) == set(documented(kind))


def test_fields_are_null_where_the_page_says_so_and_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """ "Or null" on a field that never is would make every consumer write code that never runs."""
    for kind, fields in check(made_up_records(monkeypatch)).items():
        for field, nulls in fields.items():
            assert nulls == ({True, False} if documented(kind)[field].endswith("or null") else {False}), field


def test_names_of_the_schema_are_on_the_page() -> None:
    """The schema's own number, the types and the durations."""
    text = (ROOT / SCHEMA_PAGE).read_text(encoding="utf-8")
    for word in (SCHEMA, *DURATIONS, *(name for name in NAMES if name != "none")):
        assert f"`{word}`" in text, word
    assert "anon" in text
    assert len(SHOWN_FLAGS) == len(set(SHOWN_FLAGS))


# -- the same on real kernels ------------------------------------------------------------------------------------------


def run(*arguments: str) -> list[Record]:
    """Run the command and return its records."""
    command = [sys.executable, "-m", "drgn_thp", *arguments, "--format", "ndjson"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode in (0, 1), result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.mark.vm
@pytest.mark.parametrize("entry", KERNELS, ids=lambda entry: entry.name)
def test_schema_on_a_dump(entry: MatrixKernel) -> None:
    """Made-up folios may be made up wrongly: the records of a block of a real kernel have the same fields."""
    dump = ensure_dump(entry)
    target = ["-c", str(dump.vmcore), "-s", str(dump.vmlinux)]
    start = dump.hotplug_pfns.start << 12
    records = run("report", *target, "--path", "all", "--block", f"{start:#x}", "--search")
    held = next(mark.pfn for mark in dump.marks if mark.held)
    records += run("folio", *target, hex(held), "--search")
    for kind, fields in check(records).items():
        # What this run did not ask for, and what these kernels do not record.
        elsewhere = ("confirm", "allocation")
        missing = {name for name in set(documented(kind)) - set(fields) if not name.startswith(elsewhere)}
        # Only some kernels refuse wrongly; that a path is named where it does not is seen above.
        assert not missing, (kind, missing)


# -- everything else ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", docgen.generate(), ids=lambda file: file.name)
def test_generated_text_is_up_to_date(file: Any) -> None:
    """Run ``python -m drgn_thp.docgen`` after changing a gate, a reason or the matrix of kernels."""
    assert file.read_text(encoding="utf-8") == docgen.generate()[file]


def test_reasons_page_tells_kernels_apart() -> None:
    """The one check that is a bug of old kernels must not read as if every kernel had it."""
    text = (ROOT / "docs/reasons.md").read_text(encoding="utf-8")
    section = text.split("### racy-pin-check")[1].split("###")[0]
    assert "**wrongly**" in section
    assert "if `racy_check.old`" in section
    assert "| none |" not in text


def commands() -> list[str]:
    """Return the commands of ours in the README's blocks of code."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line.removeprefix("$ ") for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith("drgn-thp ")]


@pytest.mark.parametrize("command", commands())
def test_commands_in_the_readme_are_understood(command: str) -> None:
    """An example with an option that does not exist is worse than none."""
    words = shlex.split(command, comments=True)[1:]
    assert _parser().parse_args(words).command == words[0]


def test_tables_in_the_readme_look_as_they_do() -> None:
    """The output shown is of a real run; when the columns change, it is to be run again."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.search(r"^ *" + " +".join(FOLIO_HEADERS) + "$", text, re.MULTILINE)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    """Within the project, files and headings; what lies outside is not asked here."""
    for target in re.findall(r"\]\(([^)\s]+)\)", (ROOT / page).read_text(encoding="utf-8")):
        if "://" in target:
            continue
        name, _, heading = target.partition("#")
        file = (ROOT / page).parent / name if name else ROOT / page
        assert file.is_file(), target
        if heading:
            headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in headings}, target


@pytest.mark.parametrize("page", ["README.md", "docs/design.md", "docs/schema.md"])
def test_names_in_code_type_exist(page: str) -> None:
    """Code is renamed; what a page still calls by the old name cannot be found any more."""
    text = re.sub(r"^```.*?^```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    sources = [file for file in files() if file.suffix in {".py", ".toml", ".c"} and file.name != "test_docs.py"]
    known = set(re.findall(r"\w+", "\n".join(file.read_text(encoding="utf-8") for file in sources)))
    known |= {word for file in files() for word in re.findall(r"\w+", str(file.relative_to(ROOT)))}
    names = re.findall(r"`([A-Za-z_][\w./]*)`", text)
    assert {name for name in names if not set(re.findall(r"\w+", name)) <= known} == set()
