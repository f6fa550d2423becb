# SPDX-License-Identifier: LGPL-2.1-or-later
"""One folio's balance: what its references are for, and every check of every path that refuses it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from drgn import FaultError
from drgn.helpers.linux.mm import follow_phys
from drgn.helpers.linux.pid import find_task

from . import formulas
from .blocks import read_blocks
from .context import Context
from .describe import Describer, Record
from .errors import BadArgument
from .folios import Folios
from .gates import Path
from .holders.balance import Sheet
from .holdings import Holdings, Refused
from .page_owner import Allocation
from .verdicts import duration

MAX_PFN_BITS = 52  # physical addresses have at most 64 bits, of which 12 are within the page


@dataclass(frozen=True)
class Refusal:
    """A check that refuses the folio."""

    reason: str
    kernel: str
    duration: str
    wrongly: bool
    advice: str


@dataclass(frozen=True)
class Explanation:
    """Everything about one folio."""

    asked: str
    pfn: int
    """The page frame asked for; the folio may begin before it."""
    records: tuple[Record, ...]
    """One per path, as in a report."""
    ledger: tuple[tuple[str, int], ...]
    """What holds how many references; the last entry is what nobody explains."""
    formulas: tuple[tuple[str, int], ...]
    refusals: tuple[tuple[str, tuple[Refusal, ...]], ...]
    """By path, all checks that refuse, in the order of the kernel."""
    allocation: Allocation | None = None
    """Who allocated its first page, on kernels that record it (page_owner)."""
    sheet: Sheet | None = None
    """Who holds the folio, if that was asked, and it is one of a process or file."""
    mappers: tuple[Record, ...] = ()
    """Who maps the folio, and where, if that was asked."""
    more_mappers: int = 0
    """How many more there are."""
    problems: tuple[str, ...] = ()
    """What kept from finding all who hold, map or allocated it, in words."""

    @property
    def refused(self) -> bool:
        return any(record["verdict"] == "refused" for record in self.records)


def parse_page(context: Context, text: str) -> int:
    """
    Return the page frame number that the user means.

    A number is a page frame number if there is such a frame; else a kernel address (of a ``struct page``, or of memory
    in the direct map), or else a physical address. ``pfn:``, ``phys:``, ``page:`` and ``virt:`` in front say which, and
    the ID of a process that it is an address of that process.

    :raises BadArgument: if it is none of these
    """
    kind, _, digits = text.rpartition(":")
    try:
        number = int(digits, 0)
    except ValueError:
        try:
            number = int(digits, 16)
        except ValueError:
            raise BadArgument(f"{text!r} is not a page frame number or address") from None
    if number < 0:
        raise BadArgument(f"{text!r} is negative")
    if number >> 64:
        raise BadArgument(f"{text!r} has more than 64 bits")
    if not kind:
        kind = _guess(context, number)
    if kind == "pfn":
        return number
    if kind == "phys":
        return number >> context.kernel.page_shift
    if kind == "page":
        offset = number - context.layout.vmemmap
        if offset < 0:
            raise BadArgument(f"{text}: not the address of a struct page")
        return offset // context.layout.page_struct_size
    if kind == "virt":
        return context.virtual_to_pfn(number)
    if kind.isascii() and kind.isdecimal() and len(kind) < 10:
        return _process_pfn(context, int(kind), number)
    raise BadArgument(f"{text!r}: {kind!r} is none of pfn, phys, page, virt, and no process ID")


def _process_pfn(context: Context, pid: int, address: int) -> int:
    """
    Return the page frame that a process has at an address.

    :raises BadArgument: if there is no such process, or no page
    :raises FaultError: if that cannot be read
    """
    task = find_task(context.prog, pid)
    if not task:
        raise BadArgument(f"{pid}:{address:#x}: there is no process {pid}")
    if not task.mm:
        raise BadArgument(f"{pid}:{address:#x}: process {pid} is a kernel thread or has exited: it has no memory")
    try:
        return int(follow_phys(task.mm, address)) >> context.kernel.page_shift
    except FaultError as error:
        if "address is not mapped" in str(error):
            raise BadArgument(f"{pid}:{address:#x}: process {pid} has no page there") from None
        raise


def _guess(context: Context, number: int) -> str:
    if number >> 63:
        end = context.memmap.page_address(context.end_pfn)
        return "page" if context.layout.vmemmap <= number < end else "virt"
    return "pfn" if number < context.end_pfn else "phys"


def explain(
    context: Context, asked: Iterable[str], paths: Sequence[Path], holders: bool = False, search: bool = False
) -> Iterable[Explanation]:
    """
    Explain folios, each by any page of it.

    :param asked: As in :func:`parse_page`
    :param paths: As the target's kernel has them
    :param holders: Whether to find out who holds each
    :param search: With ``holders``: whether to search for what points to those that are not explained
    :raises BadArgument: if a page does not exist
    :raises FaultError: if its struct pages cannot be read
    """
    blocks, _ = read_blocks(context.prog, context.sections)
    describer = Describer(context)
    for text in asked:
        pfn = parse_page(context, text)
        if pfn >= 1 << MAX_PFN_BITS or context.sections.index(pfn) is None:
            raise BadArgument(f"{text}: there is no page frame {pfn:#x} in this target")
        f = context.read_folio(pfn)
        block = next((b.id for b in blocks if b.start_pfn <= int(f.pfn[0]) < b.end_pfn), None)
        refused, holdings = Refused({}, f), Holdings(context, search)
        if holders:
            [refused] = holdings.found([refused])
        passing = refused.passing
        allocation, problems = _allocation(context, int(f.pfn[0]))
        more = {"asked": text, "allocation": None if allocation is None else allocation.record()}
        records = tuple({**record, **more} for record in describer.folios(f, list(paths), block, passing))
        refusals = tuple((path.name, _refusals(path, f, passing is not None and bool(passing[0]))) for path in paths)
        balance, values = _ledger(context, f), _formulas(f)
        explanation = Explanation(text, pfn, records, balance, values, refusals, allocation, problems=problems)
        yield _with_holders(explanation, holdings, refused) if holders else explanation


def _with_holders(explanation: Explanation, holdings: Holdings, refused: Refused) -> Explanation:
    """Add who holds and who maps a folio."""
    records = tuple({**record, **holdings.fields(record, refused.table)} for record in explanation.records)
    found = None if refused.table is None else refused.table.of(explanation.records[0]["pfn"])
    return replace(
        explanation,
        records=records,
        sheet=None if found is None else found.sheet,
        mappers=() if found is None else found.mappers,
        more_mappers=0 if found is None else found.more_mappers,
        problems=(*explanation.problems, *holdings.incomplete),
    )


def _allocation(context: Context, pfn: int) -> tuple[Allocation | None, tuple[str, ...]]:
    """Return who allocated a page, and what kept from finding out."""
    try:
        return context.allocation(pfn), ()
    except FaultError as error:
        return None, (f"{pfn:#x}: who allocated it cannot be read: {error}",)


def _refusals(path: Path, f: Folios, passing: bool) -> tuple[Refusal, ...]:
    verdicts = path.judge(f)
    found, mask = [], int(verdicts.mask[0])
    for index, gate in enumerate(verdicts.gates):
        if mask >> index & 1:
            lasts = duration(verdicts.gates, mask, index, passing).value
            found.append(Refusal(gate.reason.name, gate.kernel, lasts, gate.wrongly, gate.reason.advice))
    return tuple(found)


def _ledger(context: Context, f: Folios) -> tuple[tuple[str, int], ...]:
    if not formulas.is_user(f)[0]:
        return ()
    entries = [
        ("mappings", int(formulas.folio_mapcount(f)[0])),
        ("page cache", int(formulas.page_cache_references(f)[0])),
        ("swap cache", int(formulas.swapcache_references(f)[0])),
        ("private data", int(formulas.private_references(f)[0])),
    ]
    head = int(f.pfn[0])
    for entry in context.batches.entries:
        if entry.pfn == head:
            entries.append((f"batch {entry.batch} of CPU {entry.cpu}", 1))
    entries.append(("UNEXPLAINED", int(formulas.extra_references(f)[0])))
    return tuple(entries)


def _formulas(f: Folios) -> tuple[tuple[str, int], ...]:
    functions = (
        formulas.folio_mapcount,
        formulas.page_mapcount,
        formulas.folio_expected_ref_count,
        formulas.extra_references,
        formulas.folio_maybe_additionally_referenced,
        formulas.folio_maybe_dma_pinned,
        formulas.pins,
        formulas.split_extra_pins,
        formulas.can_split_folio,
        formulas.write_protect_page_balance,
        formulas.folio_maybe_mapped_shared,
    )
    return tuple((function.__name__, int(function(f)[0])) for function in functions)
