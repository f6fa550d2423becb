# SPDX-License-Identifier: LGPL-2.1-or-later
"""docs/accuracy.md and docs/accuracy.json: what was asked of which kernel, and what it answered."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from .answers import Answer
from .judge import Outcome, Row
from .run import Result

INTRODUCTION = """# Accuracy

What drgn_thp says of a dump, held against what the kernel does when it is asked. Written by `python -m tests.vm.truth`;
what the tables are made of is in `accuracy.json`, and all single rows in what `--rows FILE` writes.

A guest of each kernel is put into the states of a *scene* (`tests/vm/workload`), dumped, and its state saved. Every
question goes to the guest at the very moment of the dump, so that one cannot spoil the next and the page frames are
those of the dump. The answer is whether these frames were vacated, not what is printed: by move_pages(2) of every folio
that a process maps (`mbind`, `mbind-move-all`), offlining of every memory block (`offline`), virtio-mem's unplug with
one company of scenarios alive at a time (`contig`), split_huge_pages of debugfs (`split`), compact_memory
(`compaction-sync`, where only what has moved is an answer: it gives up for reasons of its own) and soft_offline_page
(`soft-offline`: what is said of `split` for a large folio, then of `offline`).

* **agrees**: the kernel did what was said. *Confirmed* are those where it also told an errno or the step at which it
  failed, and that is the one of the reason given: by move_pages(2), always; and where it prints them, which it limits,
  for folios that offlining finds unmovable or fails to isolate or to migrate, and that alloc_contig_range() fails to
  migrate (since v5.13). What it told otherwise counts as a disagreement. A page of no scenario that a memory block is
  refused for counts as well, if it still has the reference count of the dump.
* **doubt**: the verdict itself says that it may be otherwise by then: transient, or unknown.
* **its block**: the kernel refused the whole memory block, for a page of its own or its place, before it came to this
  folio; and that was said of the block.
* **no answer**: the kernel gave up because of another folio before it came to this one.
* **disagrees**: listed below, each with its ledger. There is no list of exceptions.

Each question was asked once. Only where a memory block was refused and that was not said, the same guest was asked
again (*asked again*): what the process that asks has just taken from free memory is on its way to the LRU, and refused
in boot memory until that is over. It drains that first when it asks again.

Not asked: about pins by vfio and RDMA, and about files of other filesystems than ext4, btrfs, xfs, vfat, FUSE, romfs,
tmpfs, ramfs and hugetlbfs. Of the kernels here only 7.3 has CMA: of `contig`, its area of 1 GiB for hugetlb is asked
for as well. 5.10 has no huge pages without their struct pages (`hugetlb_free_vmemmap=on`, the scene `hvo`).
"""

LETTERS = {
    Answer.MOVED: "m",
    Answer.RECLAIMED: "c",
    Answer.SPLIT: "s",
    Answer.REFUSED: "R",
    Answer.NOT_ISOLATED: "I",
    Answer.NOT_SPLIT: "N",
    Answer.ENDLESS: "E",
    Answer.BLOCKED: "B",
    Answer.BLOCK_REFUSED: "=",
    Answer.NOT_REACHED: "-",
}
# Of the random load: by reason and by holder.
NOT_SHOWN = ("reasons", "holders")
SHOWN = ("mbind", "mbind-move-all", "contig", "offline", "split")


def summary(results: list[Result], load: list[dict[str, Any]], seconds: float) -> dict[str, Any]:
    """Return what docs/accuracy.json holds."""
    kernels = {result.kernel: result.release for result in results}
    paths: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    reasons: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    for result in results:
        for one in result.rows:
            counts = paths[one.path][result.kernel]
            counts[one.outcome.value] += 1
            counts["confirmed"] += one.confirmed
            if one.said["reason"]:
                seen = reasons[one.said["reason"]][result.kernel]
                seen["observed"] += 1
                seen["refused"] += one.outcome is Outcome.AGREES
                seen["confirmed"] += one.confirmed
    for kernel in load:
        for name, counts in kernel.get("reasons", {}).items():
            reasons[name][kernel["kernel"]].update(counts)
    return {
        "kernels": kernels,
        "seconds": round(seconds),
        "guests": sum(cost.guests for result in results for cost in result.costs.values()),
        "guest_seconds": round(sum(cost.ran for result in results for cost in result.costs.values())),
        "scenes": _scene_seconds(results),
        "missing": _missing(results),
        "paths": {path: {kernel: dict(counts) for kernel, counts in each.items()} for path, each in paths.items()},
        "reasons": {name: {kernel: dict(counts) for kernel, counts in each.items()} for name, each in reasons.items()},
        "blocks": {
            "agree": sum(block.agrees for result in results for block in result.blocks),
            "disagree": sum(not block.agrees for result in results for block in result.blocks),
        },
        "load": [{name: value for name, value in one.items() if name not in NOT_SHOWN} for one in load],
    }


def _scene_seconds(results: list[Result]) -> dict[str, dict[str, int]]:
    """Return for how long the guests of each scene ran, by kernel."""
    seconds: dict[str, dict[str, int]] = defaultdict(dict)
    for result in results:
        seconds[result.scene][result.kernel] = round(sum(cost.ran for cost in result.costs.values()))
    return seconds


def _missing(results: list[Result]) -> dict[str, list[str]]:
    """Return which questions could not be put to which kernels."""
    kernels: dict[str, dict[str, None]] = defaultdict(dict)
    for result in results:
        for path in result.missing:
            kernels[path][result.kernel] = None
    return {path: list(names) for path, names in kernels.items()}


def page(results: list[Result], load: list[dict[str, Any]], totals: dict[str, Any]) -> Iterator[str]:
    """Yield docs/accuracy.md, line by line."""
    yield from INTRODUCTION.splitlines()
    yield ""
    yield f"The run took {totals['seconds'] // 60} min {totals['seconds'] % 60} s: {totals['guests']} guests went on"
    yield f"from a dump, and ran for {totals['guest_seconds']} s, all CPUs added up."
    yield ""
    yield "Kernels: " + ", ".join(f"{name} ({release})" for name, release in totals["kernels"].items()) + "."
    yield ""
    yield from _failures(results)
    yield from _paths(totals)
    yield from _disagreements(results)
    yield from _doubts(results)
    yield from _blocks(results)
    yield from _load(load)
    yield from _scenarios(results)


def _table(header: Iterable[str], rows: Iterable[Iterable[object]]) -> Iterator[str]:
    columns = list(header)
    yield "| " + " | ".join(columns) + " |"
    yield "|" + "---|" * len(columns)
    for cells in rows:
        yield "| " + " | ".join(str(cell) for cell in cells) + " |"
    yield ""


def _paths(totals: dict[str, Any]) -> Iterator[str]:
    yield "## Folios"
    yield ""
    names = ["agrees", "confirmed", "doubt", "its block", "no answer", "disagrees"]
    rows = [
        [path, kernel, *(totals["paths"][path].get(kernel, {}).get(name, 0) for name in names)]
        for path in sorted(totals["paths"])
        for kernel in totals["kernels"]
    ]
    yield from _table(["path", "kernel", *names], rows)
    for path, kernels in totals["missing"].items():
        yield f"Cannot be asked: {path} on {', '.join(kernels)}."
    yield ""


def _failures(results: list[Result]) -> Iterator[str]:
    for result in results:
        if result.failure:
            why = result.failure.splitlines()[0]
            yield f"**Not answered to the end**: {result.kernel}, scene {result.scene}: {why}."
            yield ""


def _ledger(one: Row) -> str:
    said = one.said
    return (
        f"refcount {said['refcount']}, mapcount {said['total_mapcount']}, expected {said['expected']},"
        f" extra {said['extra']}, pins {said['pins']}, batches {said['batches']}, {' '.join(said['flags'])}"
    )


def _disagreements(results: list[Result]) -> Iterator[str]:
    yield "## Disagreements"
    yield ""
    alike: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for result in results:
        for one in result.rows:
            if one.outcome is Outcome.DISAGREES:
                said = f"{one.said['verdict']} {one.said['reason'] or ''} {one.said['duration'] or ''}".strip()
                answer = f"{one.told.answer.value} {one.told.word}".strip()
                names = f"{result.scene}: {'/'.join(one.folio.scenarios)}"
                alike[result.kernel, one.path, names, one.said["type"], said, answer, _ledger(one)].append(one)
    rows = [
        [*key[:3], ", ".join(f"{one.folio.pfn:#x}" for one in ones[:3]), len(ones), *key[3:]]
        for key, ones in alike.items()
    ]
    if not rows:
        yield "None."
        yield ""
        return
    yield from _table(
        ["kernel", "path", "scenario", "folios", "how many", "type", "said", "kernel's answer", "ledger"], rows
    )


def _doubts(results: list[Result]) -> Iterator[str]:
    yield "## Doubts"
    yield ""
    yield "Refused at the moment of the dump, by something that ends by itself, and gone when the kernel was asked."
    yield ""
    counts = Counter(
        (one.said["reason"] or one.said["verdict"], one.path, result.kernel)
        for result in results
        for one in result.rows
        if one.outcome is Outcome.DOUBT
    )
    yield from _table(
        ["reason", "path", "kernel", "folios"], ([*key, number] for key, number in sorted(counts.items()))
    )


def _blocks(results: list[Result]) -> Iterator[str]:
    yield "## Memory blocks"
    yield ""
    yield "What was said of offlining these blocks, and what became of them."
    yield ""
    scenes: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    for result in results:
        for block in result.blocks:
            outcome = ("agrees" if block.agrees else "**disagrees**") + ", asked again" * block.again
            key = (result.kernel, block.said, block.answer, outcome)
            scenes[key][block.scene] += 1
    rows = (
        [*key, sum(seen.values()), ", ".join(f"{name} {n}" for name, n in sorted(seen.items()))]
        for key, seen in sorted(scenes.items())
    )
    yield from _table(["kernel", "said", "became", "", "blocks", "of these in the scenes"], rows)


def _load(load: list[dict[str, Any]]) -> Iterator[str]:
    if not load:
        return
    yield "## Random load"
    yield ""
    yield "Every folio of the hot-plugged memory of a guest under random load, at random instants of one boot: what"
    yield "was said of `offline`, and what became of it. Written by `python -m tests.vm.truth.load`."
    yield ""
    yield "Processes are stopped, but what the kernel does for them at that instant goes on to its end. Of some of that"
    yield "drgn_thp says that it ends by itself, by a check (a lock, I/O) or by who holds a folio (`--holders`): it is"
    yield "*said to stay for a while*. What else did not come true is looked at once more, after as long as the kernel"
    yield "was given to offline it. *Let go between two looks*: the verdict was then another one, and came true."
    yield ""
    names = [name for name in load[0] if name not in NOT_SHOWN]
    yield from _table(names, ([one[name] for name in names] for one in load))
    yield "What these by who holds them were held by, and what became of them:"
    yield ""
    holders = [(one["kernel"], kind, fates) for one in load for kind, fates in one.get("holders", {}).items()]
    fates = sorted({fate for *_, counts in holders for fate in counts})
    yield from _table(
        ["kernel", "held by", *fates],
        ([kernel, kind, *(counts.get(fate, 0) for fate in fates)] for kernel, kind, counts in holders),
    )


def _scenarios(results: list[Result]) -> Iterator[str]:
    yield "## Scenarios"
    yield ""
    yield f"One letter a path ({', '.join(SHOWN)}): what the kernel did with the folios of the scenario."
    yield ", ".join(f"`{letter}` {answer.value}" for answer, letter in LETTERS.items()) + "; `.` not asked,"
    yield "`+` some this and some that, as was said of each. A `!` behind it: not what was said."
    yield ""
    kernels = sorted({result.kernel for result in results}, key=lambda name: [int(part) for part in name.split(".")])
    cells: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for result in results:
        by_scenario: dict[str, list[Row]] = defaultdict(list)
        for one in result.rows:
            for name in one.folio.scenarios:
                by_scenario[name].append(one)
        for name, rows in by_scenario.items():
            cells[result.scene, name][result.kernel] = "".join(_letter(rows, path) for path in SHOWN)
    yield from _table(
        ["scene", "scenario", *kernels],
        ([*key, *(f"`{cells[key].get(kernel, '')}`" for kernel in kernels)] for key in sorted(cells)),
    )


def _letter(rows: list[Row], path: str) -> str:
    mine = [one for one in rows if one.path == path]
    letters = {LETTERS[one.told.answer] for one in mine}
    letters = letters - {"-", "="} or letters
    letter = "." if not letters else letters.pop() if len(letters) == 1 else "+"
    return letter + "!" * any(one.outcome is Outcome.DISAGREES for one in mine)
