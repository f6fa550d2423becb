# SPDX-License-Identifier: LGPL-2.1-or-later
"""From refused folios to the fate of a memory block: what happens to who asks for it on a path."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from .census import BlockCensus
from .context import Context
from .folios import Column, Folios
from .gates import Duration, Gate, Path, reasons

YES, LATER, BLOCKS, ENDLESS, NO, OFFLINE, UNKNOWN = "yes", "later", "blocks", "endless", "no", "offline", "unknown"

DISSOLVED = (reasons.HUGETLB_BUSY, reasons.HUGETLB_RESERVED)
# Huge pages are taken apart at the end, when all else has been moved away; and it is not tried again.
AT_THE_END = ((reasons.HUGETLB_HWPOISON, "-EBUSY"), (reasons.HUGETLB_VMEMMAP, "-ENOMEM"))
# Of these, has_unmovable_pages() knows no better than to refuse at once; by the next try they may be gone.
AT_FIRST = (reasons.LRU_BATCH, reasons.PAGEBLOCK_ISOLATED)
BLOCK_PATHS = ("contig", "offline")
# What refuses a folio because somebody holds it, and for no other reason.
HELD = (reasons.DMA_PINNED, reasons.EXTRA_REFERENCE)
LASTING = (Duration.PERMANENT, Duration.ENDLESS)


def duration(gates: Sequence[Gate], mask: int, primary: int, passing: bool) -> Duration:
    """
    Return for how long a folio is refused.

    :param mask: Which gates refuse it
    :param primary: The first of them
    :param passing: Whether all that is not explained of its references is held by what lets go of them by itself: no
        check of the kernel knows that
    """
    first = gates[primary]
    if not passing or first.reason not in HELD:
        return first.duration
    others = (gate for i, gate in enumerate(gates) if mask >> i & 1 and gate.reason not in HELD)
    return first.duration if any(gate.duration in LASTING for gate in others) else Duration.TRANSIENT


def without(census: BlockCensus, paths: Sequence[Path], f: Folios, passing: Column) -> BlockCensus:
    """
    Return the census of a block in which folios that are let go by themselves count as refused for a while.

    :param paths: As the target's kernel has them
    :param f: Refused folios of the block
    :param passing: Which of them are held by what lets go of them by itself alone
    """
    tables = dict(census.paths)
    for path in paths:
        verdicts, moved = path.judge(f), Counter[str]()
        for row in (passing & (verdicts.primary >= 0) & ~f.changing).nonzero()[0].tolist():
            mask, primary = int(verdicts.mask[row]), int(verdicts.primary[row])
            moved[verdicts.gates[primary].duration.value] -= 1
            moved[duration(verdicts.gates, mask, primary, True).value] += 1
        durations = Counter(tables[path.name].durations)
        durations.update(moved)
        tables[path.name] = replace(tables[path.name], durations={k: n for k, n in durations.items() if n})
    return replace(census, paths=tables)


def structural(context: Context, census: BlockCensus) -> str:
    """
    Return why offline_pages() refuses a block before it looks at a page, or "".

    It wants all of the block to be System RAM of one zone.
    """
    block = census.block
    if not context.resources.covers(block.start_pfn, block.end_pfn):
        return "-EINVAL: memory holes"
    if block.single_zone is False:  # memory_block_offline()
        return "-EINVAL: more than one zone"
    if block.single_zone:
        return ""
    zones = [zone for zone in context.zones if zone.start_pfn < block.end_pfn and block.start_pfn < zone.end_pfn]
    if len(zones) > 1 and len(census.zones) > 1:
        return "-EINVAL: more than one zone"
    return ""


def block_verdict(context: Context, census: BlockCensus, path: str) -> tuple[str, str]:
    """
    Return what becomes of a block on a path, and the kernel's word for it.

    yes; later (only transient obstacles); blocks (the kernel waits, perhaps for ever); endless (it retries until a
    signal); no; offline (it is already); unknown (something of it that may refuse cannot be read). Paths that do not
    ask for memory by the block have none: "".
    """
    if path not in BLOCK_PATHS:
        return "", ""
    counts = census.paths[path]
    if census.changed:
        return UNKNOWN, unreadable(context, census)
    if not census.block.online:
        return OFFLINE, ""
    if path == "offline":
        problem = structural(context, census)
        if problem:
            return NO, problem
        if census.cma:
            return NO, "-EBUSY: a CMA area"
        if census.huge_beyond and context.kernel.isolation_migrates_straddlers:
            return NO, "-EBUSY: a huge page reaches into the next block"
    durations = dict(counts.durations)
    at_the_end = [(counts.reasons.get(reason.name, 0), answer) for reason, answer in AT_THE_END if path == "offline"]
    durations[Duration.PERMANENT.value] = durations.get(Duration.PERMANENT.value, 0) - sum(n for n, _ in at_the_end)
    order = (
        (Duration.PERMANENT, NO),
        (Duration.ENDLESS, ENDLESS),
        (Duration.WILL_BLOCK, BLOCKS),
        (Duration.TRANSIENT, LATER),
    )
    free = LATER if census.isolated else YES
    found = next((verdict for duration, verdict in order if durations.get(duration.value)), free)
    last = next((answer for number, answer in at_the_end if number), "")
    if last and found in (LATER, YES):
        return NO, last
    unread = unreadable(context, census) if found in (YES, LATER) else ""
    if unread:
        return UNKNOWN, unread
    if found == LATER and path == "offline" and any(counts.reasons.get(reason.name) for reason in DISSOLVED):
        return found, "-EBUSY"  # dissolve_free_hugetlb_folios(): nothing is tried again
    at_first = census.isolated or any(counts.reasons.get(reason.name) for reason in AT_FIRST)
    if found in (ENDLESS, BLOCKS) and path == "offline" and at_first:
        return found, "-EBUSY at first"
    return found, "-EBUSY" if found == NO else ""


def unreadable(context: Context, census: BlockCensus) -> str:
    """Return what of a block cannot be read, but might refuse; or ""."""
    if census.changed:
        return "it went on- or offline while it was read"
    if census.changing:
        return f"{census.changing} folios changed while they were read"
    if census.unreadable:
        return f"{census.unreadable} struct pages not readable"
    if census.undecided:
        return f"{census.undecided} folios with address_spaces, buffer heads or lists of KSM not readable"
    doubtful = context.doubts.unreadable_pageblocks
    if doubtful:
        size = context.sections.pages_per_section
        first, last = census.block.start_pfn // size, (census.block.end_pfn - 1) // size
        if any(first <= section <= last for section in doubtful):
            return "pageblock flags not readable"
    return ""
