# SPDX-License-Identifier: LGPL-2.1-or-later
"""
One answer, however it is asked for: bulk scan, one-folio reader, helpers of the prompt; with and without classes.

That these share their formulas is the design; these tests are why one may rely on it.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Iterator
from typing import Any, Callable

import numpy
import pytest
from drgn import Object, cast
from drgn.helpers.linux.mm import pfn_to_page

from drgn_thp import classes, formulas, helpers, memmap, scan
from drgn_thp.context import Context
from drgn_thp.folios import Column, Folios
from drgn_thp.rows import Rows, concatenate

from .damage import damaged
from .individually import WholeScan, all_paths, blocks_of, differences
from .opened import Opened
from .overlay import Overlay

pytestmark = pytest.mark.vm

EVERY_NTH = 251
"""Of small folios, how many are read one by one by helpers, beside one of every kind."""


def columns_of(opened: Opened, f: Folios, attached: list[str]) -> Iterator[tuple[str, Column]]:
    """Yield every column that there is: facts, what the context attaches, all formulas, and verdicts of all paths."""
    layout = opened.context.layout
    more = ["pfn", "order", "subpage_mapcounts", "broken", "type", "zone", "node"]
    for name in sorted({*layout.facts, *layout.flag_masks, *more, *attached}):
        yield name, getattr(f, name)
    for name, function in inspect.getmembers(formulas, inspect.isfunction):
        if function.__module__ == formulas.__name__:
            yield f"{name}()", function(f)
    for path in all_paths(opened.context):
        verdicts = path.judge(f)
        yield f"{path.name}: primary", verdicts.primary
        yield f"{path.name}: all", verdicts.mask


def attached_columns(f: Folios) -> list[str]:
    """Return the names of the columns that the context has put into a fresh table."""
    return [name for name, value in vars(f).items() if isinstance(value, numpy.ndarray)]


def test_one_folio_reader_agrees_with_the_scan(opened: Opened) -> None:
    """Must show 3, every folio of the dump: each is read for itself, then all are compared in every column."""
    reader = opened.context.memmap.read_folio
    singles: list[Rows] = [reader(pfn) for pfn in opened.rows.pfn.tolist()]
    single = opened.context.folios(concatenate(singles))
    bulk = opened.context.folios(opened.rows)
    attached = attached_columns(bulk)
    assert {"batches", "migrate_op", "zero_page", "buffer_busy"} <= set(attached)
    compared = 0
    for (name, one), (_, other) in zip(columns_of(opened, single, attached), columns_of(opened, bulk, attached)):
        differ = one != other
        assert not differ.any(), (name, [hex(pfn) for pfn in opened.rows.pfn[differ][:20]])
        compared += 1
    assert compared > 90


def test_a_tail_leads_to_its_folio(opened: Opened) -> None:
    """People ask about the page that failed, which is any page of a folio."""
    rng = random.Random(3)
    f = opened.folios
    for i in numpy.flatnonzero(f.order > 0).tolist():
        size = 1 << int(f.order[i])
        for tail in {1, size - 1, rng.randrange(1, size)}:
            rows = opened.context.memmap.read_folio(int(f.pfn[i]) + tail)
            assert (rows.pfn.tolist(), rows.order.tolist()) == ([int(f.pfn[i])], [int(f.order[i])])


def kinds(opened: Opened) -> list[int]:
    """
    Return the rows to ask the helpers about, which take milliseconds each.

    All large folios of processes and files, all that are held, batched or wrongly refused, one of every combination of
    type, order, kind of mapping and verdicts, and every :data:`EVERY_NTH` one of the rest.
    """
    f = opened.folios
    rows = set(numpy.flatnonzero((f.order > 0) & formulas.is_user(f)).tolist())
    rows |= set(numpy.flatnonzero((f.batches > 0) | f.zero_page | f.huge_zero).tolist())
    rows |= {opened.position[pfn] for pfn in opened.held}
    rows |= set(range(0, len(f), EVERY_NTH))
    looks = [f.type, f.order, f.mapping_kind, *(path.judge(f).mask for path in all_paths(opened.context))]
    matrix = numpy.stack([column.astype(numpy.uint64) for column in looks])
    _, examples = numpy.unique(matrix, axis=1, return_index=True)
    return sorted(rows | set(examples.tolist()))


# By name: what the helper should say, given the folio's row of the bulk table. page_mapcount() is asked of the head.
HELPERS: dict[str, Callable[[Folios], Column]] = {
    "page_mapcount": formulas.page_mapcount,
    "folio_mapcount": formulas.folio_mapcount,
    "total_mapcount": formulas.folio_mapcount,
    "folio_expected_ref_count": formulas.folio_expected_ref_count,
    "page_cache_references": formulas.page_cache_references,
    "swapcache_references": formulas.swapcache_references,
    "extra_references": formulas.extra_references,
    "folio_maybe_additionally_referenced": formulas.folio_maybe_additionally_referenced,
    "folio_maybe_dma_pinned": formulas.folio_maybe_dma_pinned,
    "can_split_folio": formulas.can_split_folio,
    "split_extra_pins": formulas.split_extra_pins,
    "write_protect_page_balance": formulas.write_protect_page_balance,
}


def test_helpers_agree_with_the_scan(opened: Opened) -> None:
    """What the prompt says is what the report says."""
    f = opened.folios
    judges = all_paths(opened.context)
    verdicts = {path.name: (path, path.judge(f).primary) for path in judges}
    asked = kinds(opened)
    expected: dict[str, Any] = {name: function(f) for name, function in HELPERS.items()}
    attached = attached_columns(opened.context.folios(opened.rows.select(numpy.array([0]))))
    bulk = dict(columns_of(opened, opened.context.folios(opened.rows.select(numpy.array(asked))), attached))
    for number, i in enumerate(asked):
        page = pfn_to_page(opened.prog, int(f.pfn[i]))
        for name, column in expected.items():
            assert getattr(helpers, name)(page) == column[i], (name, hex(f.pfn[i]))
        for name, (path, primary) in verdicts.items():
            word = "ok" if primary[i] < 0 else path.gates[int(primary[i])].reason.name
            assert helpers.migration_verdict(page, name) == word, (name, hex(f.pfn[i]))
        for name, one in columns_of(opened, helpers.read_folio(as_folio(page)), attached):
            assert len(one) == 1
            assert one[0] == bulk[name][number], (name, hex(f.pfn[i]))


def as_folio(page: Object) -> Object:
    """Return a page as ``struct folio *``, where the kernel has that."""
    try:
        return cast("struct folio *", page)
    except LookupError:
        return page


def test_helpers_take_tail_pages(opened: Opened) -> None:
    """A tail page stands for its folio."""
    f = opened.folios
    for i in numpy.flatnonzero((f.order > 0) & formulas.is_user(f)).tolist():
        tail = pfn_to_page(opened.prog, int(f.pfn[i]) + (1 << int(f.order[i])) - 1)
        for name in HELPERS.keys() - {"page_mapcount"}:
            assert getattr(helpers, name)(tail) == HELPERS[name](f)[i], (name, hex(f.pfn[i]))


# -- the memo ----------------------------------------------------------------------------------------------------------


def test_classes_count_what_judging_one_by_one_counts(opened: Opened) -> None:
    """Folios that look alike are judged once. What they look like must be all that a verdict depends on."""
    assert differences(opened.context, blocks_of(opened.context)) == []


TIGHT = {
    "nothing waits": {"PENDING_ROWS": 1, "KEPT_ROWS": 1, "HELD_CHUNKS": 1, "MAX_WAITING": 1},
    "all forgotten at once": {"MAX_CLASSES": 1, "MAX_WAITING": 1},
    "everything waits": {"PENDING_ROWS": 1 << 30, "KEPT_ROWS": 1 << 30, "HELD_CHUNKS": 1 << 30},
}


@pytest.mark.parametrize("limits", TIGHT.values(), ids=TIGHT)
def test_limits_change_nothing(opened: Opened, limits: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Queues and memos are emptied at limits that these dumps would never reach."""
    for name, value in limits.items():
        monkeypatch.setattr(scan, name, value)
    assert differences(opened.context, blocks_of(opened.context)) == []


def in_use(opened: Opened, rows: Rows) -> Rows:
    """Return the rows that are no free blocks: of these it is nobody's concern which are found."""
    return rows.select(~formulas.is_free(opened.context.memmap.folios(rows)))


@pytest.mark.parametrize("struct_pages", [512, 4096])
def test_size_of_the_pieces_changes_nothing(opened: Opened, struct_pages: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one piece of memmap ends and the next begins must not be seen in any number."""
    size = opened.context.layout.page_struct_size
    monkeypatch.setattr(memmap, "CHUNK_BYTES", struct_pages * size)
    smaller = memmap.Memmap(opened.prog, opened.context.layout, opened.context.kernel)
    assert smaller.pages_per_chunk == struct_pages
    usual = in_use(opened, opened.rows)
    monkeypatch.setattr(opened.context, "memmap", smaller)
    parts = [smaller.rows(chunk, smaller.live(chunk).rows) for chunk in opened.chunks()]
    pieces = in_use(opened, concatenate(parts))
    for name in ("pfn", "order", "subpage_mapcounts", "broken"):
        assert (getattr(pieces, name) == getattr(usual, name)).all(), name
    assert all((one == other).all() for one, other in zip(pieces.pages, usual.pages))
    assert differences(opened.context, blocks_of(opened.context)) == []


# -- the memo, on memory that is more varied than that of a guest which has just booted -------------------------------


def vary(overlay: Overlay, context: Context, rows: Rows, rng: random.Random) -> None:
    """
    Change one fact in each of many folios, to something that it could be.

    Bits of the flags word one by one, counts by little, and the same in the first tail pages of large folios.
    """
    layout = context.layout
    fields = ["refcount", "type_word", "mapping", "private", "flags"]
    behind = [name for name, field in layout.fields.items() if field.page > 0 and name != "order"]
    large = numpy.flatnonzero(rows.order > 1).tolist()
    for _ in range(1500):
        if rng.random() < 0.5:
            i, name = rng.randrange(len(rows)), rng.choice(fields)
        else:
            i, name = rng.choice(large), rng.choice(behind)
        field = layout.fields[name]
        address = overlay.page_address(int(rows.pfn[i]) + field.page) + field.offset
        width = field.dtype.itemsize
        old = int.from_bytes(overlay.prog.read(address, width), "little")
        if name in ("flags", "large_flags"):
            new = old ^ 1 << rng.randrange(25)
        elif name == "mapping":
            new = rng.choice([old ^ 1, old ^ 2, old ^ 3, 0, int(rows_mapping(context, rows, rng))])
        else:
            new = (old + rng.choice([-2, -1, 1, 2, 512, 1024])) % (1 << 8 * width)
        overlay.write(address, new.to_bytes(width, "little"))


def rows_mapping(context: Context, rows: Rows, rng: random.Random) -> int:
    """Return the mapping of any other folio."""
    f = context.memmap.folios(rows.select(numpy.array([rng.randrange(len(rows))])))
    return int(f.mapping[0])


@pytest.mark.parametrize("seed", range(3))
def test_classes_hold_on_varied_memory(opened: Opened, overlay: Overlay, seed: int) -> None:
    """
    A fact that a class forgets is noticed only where two folios differ in just that.

    A guest that has just booted has few such pairs; here, facts are changed one by one in folios that were alike.
    """
    rng = random.Random(seed)
    overlay.mend()
    vary(overlay, opened.context, opened.rows, rng)
    context = Context.of(overlay.prog)
    assert context is not opened.context
    assert differences(context, blocks_of(context)) == []


def test_collisions_change_nothing(opened: Opened, overlay: Overlay, monkeypatch: pytest.MonkeyPatch) -> None:
    """Classes are found by a hash: with one that is almost always the same, they must still not be mixed up."""

    def few(state: Column, counts: Column) -> Column:
        return ((state >> numpy.uint64(3)) & numpy.uint64(3)).astype(numpy.intp)

    monkeypatch.setattr(classes, "_slots", few)
    overlay.mend()
    vary(overlay, opened.context, opened.rows, random.Random(50))
    context = Context.of(overlay.prog)
    assert differences(context, blocks_of(context)) == []


def make_twins(overlay: Overlay, context: Context, one: int, other: int, rng: random.Random) -> None:
    """
    Make two large folios of one size look the same, and both a little different from what they were.

    With references or without, with a mapping or without: what a single fact means depends on the others.
    """
    layout, size = context.layout, overlay.page_size
    word = layout.fields["compound_word"]
    for i in range(512):
        data = bytearray(overlay.prog.read(overlay.page_address(one + i), size))
        own = overlay.prog.read(overlay.page_address(other + i) + word.offset, word.dtype.itemsize)
        if i:  # a tail leads to its own head
            data[word.offset : word.offset + word.dtype.itemsize] = own
        overlay.write(overlay.page_address(other + i), bytes(data))
    surplus, flag, unmapped = rng.choice((0, 1, 1, 2)), rng.choice((0, 0, 1 << rng.randrange(25))), rng.random() < 0.3
    for head in (one, other):
        change(overlay, context, head, "refcount", lambda old: old + surplus)
        if flag != layout.flag("head"):
            change(overlay, context, head, "flags", lambda old: old ^ flag)
        if unmapped:
            change(overlay, context, head, "mapping", lambda old: 0)


def change(overlay: Overlay, context: Context, head: int, name: str, how: Callable[[int], int]) -> None:
    """Change one fact of a folio."""
    field = context.layout.fields[name]
    address, width = overlay.page_address(head + field.page) + field.offset, field.dtype.itemsize
    old = int.from_bytes(overlay.prog.read(address, width), "little")
    overlay.write(address, (how(old) % (1 << 8 * width)).to_bytes(width, "little"))


def test_twins_that_differ_in_one_fact_are_told_apart(opened: Opened, overlay: Overlay) -> None:
    """
    Large folios have facts in several struct pages, each of which a class must know.

    Pairs are made equal, then one fact of one of them is changed: whoever takes both for the same, judges one wrongly.
    """
    rng = random.Random(7)
    f, layout = opened.folios, opened.context.layout
    here = (f.order == 9) & numpy.isin(f.pfn, opened.dump.hotplug_pfns)
    thps, huge = (f.pfn[here & which].tolist() for which in (~formulas.PageHuge(f) & f.lru, formulas.PageHuge(f)))
    assert len(thps) >= 12
    assert len(huge) == 4
    fields = [
        name for name, field in layout.fields.items() if field.page > 0 and name not in ("order", "compound_dtor")
    ]
    told_apart = set()
    for name in [*fields, "refcount", "type_word", "private", "mapping"]:
        pairs = [*rng.sample(thps, len(thps) // 2 * 2), *rng.sample(huge, 4)]
        overlay.mend()
        for one, other in zip(pairs[::2], pairs[1::2]):
            make_twins(overlay, opened.context, one, other, rng)
            delta = rng.choice((1, 1, 2, -1, *(1 << bit for bit in (5, 6, 13, 14, 63))))
            change(overlay, opened.context, other, name, delta.__add__)
        context = Context.of(overlay.prog)
        (block,) = {block for block in blocks_of(context) if block.start_pfn <= thps[0] < block.end_pfn}
        assert differences(context, [block]) == [], name
        verdicts = judged_each(context, pairs)
        told_apart |= {name} if (verdicts[::2] != verdicts[1::2]).any() else set()
    # Not so in vain: these facts do change verdicts.
    assert {"refcount", "mapping"} <= told_apart
    assert "pincount" in told_apart


def judged_each(context: Context, heads: list[int]) -> Column:
    """Return the verdicts of some folios on all paths, each judged for itself, a row each."""
    f = context.folios(concatenate([context.memmap.read_folio(head) for head in heads]))
    return numpy.stack([path.judge(f).primary for path in all_paths(context)], axis=1)


WILD = (
    "flipped_bits_in_struct_pages",
    "struct_pages_overwritten",
    "struct_pages_of_others",
    "extreme_counts",
    "wrong_orders",
    "tails_that_lead_nowhere",
    "wrong_types",
    "mappings_that_lead_nowhere",
    "damaged_pageblock_flags",
)


@pytest.mark.parametrize("name", WILD)
def test_classes_hold_on_damaged_memory(overlay: Overlay, name: str) -> None:
    """The same where facts have values that no kernel would give them."""
    damaged(overlay, name, 100)
    context = Context.of(overlay.prog)
    assert differences(context, blocks_of(context), WholeScan) == []
