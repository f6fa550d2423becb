# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The command line: ``drgn-thp report`` and ``drgn-thp folio``.

Exit status: 0 ran, nothing refused; 1 ran, refusals found; 2 ran, but something is missing from the answer (the output
says what); 3 could not run.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Callable, TextIO

from .errors import BadArgument, DrgnThpError
from .escape import printable

if TYPE_CHECKING:
    from .blocks import Block
    from .context import Context

CLEAN, REFUSALS, INCOMPLETE, FAILED = range(4)
DEFAULT_PATHS = ("contig", "offline")
DEFAULT_LIMIT = 100


def _parser() -> argparse.ArgumentParser:
    from .gates import paths, reasons_of
    from .render import renderers
    from .target import add_target_arguments

    parser = argparse.ArgumentParser(
        prog="drgn-thp",
        description="Which folios would this Linux kernel refuse to migrate, by which of its own checks?",
        epilog="exit status: 0 nothing refused, 1 refusals found, 2 incomplete, 3 could not run",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    about_paths = "; ".join(f"{path.name}: {path.summary}" for path in paths().values())

    report = commands.add_parser(
        "report",
        help="memory blocks, and the folios in them that would be refused",
        description="List memory blocks and the folios in them that this kernel would refuse to migrate.",
    )
    add_target_arguments(report)
    asked = report.add_argument_group("question")
    asked.add_argument(
        "--path",
        action="append",
        metavar="PATH",
        choices=[*paths(), "all"],
        help=f"how the kernel would migrate; may be given more than once (default: {' and '.join(DEFAULT_PATHS)}). "
        f"all, or one of: {about_paths}",
    )
    asked.add_argument(
        "--block",
        action="append",
        metavar="N|START-END",
        help="only this memory block, these blocks (32-35), or those in a range of addresses (0x100000000-0x1ffffffff)",
    )
    asked.add_argument(
        "--only",
        action="append",
        metavar="REASON",
        choices=list(reasons_of()),
        help="list only folios refused for this",
    )

    folio = commands.add_parser(
        "folio",
        help="everything about the folios of some pages",
        description="Explain folios: facts, formulas, what holds their references, and the verdict on every path.",
    )
    add_target_arguments(folio)
    folio.add_argument(
        "pages",
        nargs="+",
        metavar="PFN|ADDRESS",
        help="page frame number, physical address, kernel address, or address of a struct page;"
        " pfn:, phys:, virt: or page: in front says which",
    )
    folio.add_argument("--path", action="append", metavar="PATH", choices=[*paths(), "all"], help="only this path")

    for command in (report, folio):
        output = command.add_argument_group("output")
        output.add_argument("--format", choices=list(renderers()), default="text", help="(default: text)")
        output.add_argument("--output", metavar="FILE", help="write there instead of to standard output")
        if command is report:
            output.add_argument(
                "--limit",
                type=int,
                default=DEFAULT_LIMIT,
                metavar="N",
                help=f"list at most N refused folios per path in text; 0 for all (default: {DEFAULT_LIMIT})",
            )
        kernel = command.add_argument_group("kernel")
        kernel.add_argument(
            "--racy-check",
            choices=["old", "new"],
            help="form of the check in isolate_migratepages_block(): page_mapcount() (old) or total_mapcount() (new);"
            " found out from the target if not given",
        )
        command.add_argument("--debug", action="store_true", help="show where an error comes from")
    return parser


def _block_filter(texts: Sequence[str] | None, context: Context) -> Callable[[Block], bool] | None:
    """
    Return which memory blocks the user means.

    :raises BadArgument: if one of the texts means nothing
    """
    if not texts:
        return None
    ids: list[tuple[int, int]] = []
    frames: list[tuple[int, int]] = []
    shift = context.kernel.page_shift
    for text in texts:
        match = re.fullmatch(r"(0x[0-9a-f]+|\d+)(?:-(0x[0-9a-f]+|\d+))?", text, re.IGNORECASE)
        if match is None:
            raise BadArgument(f"--block {text!r}: neither a block (32), blocks (32-35) nor addresses (0x0-0x7ffffff)")
        first = int(match[1], 0)
        last = first if match[2] is None else int(match[2], 0)
        if last < first:
            raise BadArgument(f"--block {text}: ends before it begins")
        if match[1].lower().startswith("0x"):
            frames.append((first >> shift, last >> shift))
        else:
            ids.append((first, last))

    def wanted(block: Block) -> bool:
        by_id = block.id is not None and any(first <= block.id <= last for first, last in ids)
        return by_id or any(block.start_pfn <= last and first < block.end_pfn for first, last in frames)

    return wanted


@contextmanager
def _output(name: str | None) -> Iterator[TextIO]:
    if name is None:
        yield sys.stdout
        sys.stdout.flush()
        return
    try:
        with open(name, "w", encoding="utf-8") as file:
            yield file
    except OSError as error:
        raise BadArgument(f"--output {name}: {error.strerror}") from error


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar on a terminal, if it takes long enough to be seen."""
    from tqdm import tqdm

    with tqdm(total=total, unit="page", unit_scale=True, delay=1, leave=False, disable=None, file=sys.stderr) as bar:
        yield lambda pages: _update(bar, pages)


def _update(bar: Any, pages: int) -> None:
    bar.update(pages)


def _paths(names: Sequence[str] | None, default: Sequence[str]) -> list[Any]:
    from .gates import find_path, paths

    names = names or default
    return list(paths().values()) if "all" in names else [find_path(name) for name in dict.fromkeys(names)]


def _listed(arguments: argparse.Namespace) -> Callable[[Any], bool]:
    """Return for which reasons refused folios are listed: as asked, or all; text leaves out the kernel's own."""
    only = frozenset(arguments.only or ())
    if only:
        return lambda reason: reason.name in only
    if arguments.format == "text":
        return lambda reason: not reason.kernel_memory
    return lambda reason: True


def _report(arguments: argparse.Namespace) -> int:
    from .context import Context
    from .render import renderers
    from .report import Question, Report
    from .target import open_target, spec_from_arguments

    target = open_target(spec_from_arguments(arguments))
    context = Context.of(target.prog, arguments.racy_check)
    question = Question(
        _paths(arguments.path, DEFAULT_PATHS),
        _block_filter(arguments.block, context),
        _listed(arguments),
    )
    with _output(arguments.output) as out:
        report = Report(context, question, target.types_source, target.notes)
        if not report.blocks:
            raise BadArgument(f"no such memory block: {', '.join(arguments.block or ['none at all'])}")
        with _progress(report.pages) as progress:
            report.progress = progress
            renderers()[arguments.format](report.records(), out, arguments.limit)
    if report.incomplete:
        return INCOMPLETE
    return REFUSALS if any(report.totals.refused.values()) else CLEAN


def _folio(arguments: argparse.Namespace) -> int:
    from drgn import FaultError

    from .context import Context
    from .explanation import write_explanation
    from .ledger import Explanation, explain
    from .render import renderers
    from .target import open_target, spec_from_arguments

    target = open_target(spec_from_arguments(arguments))
    context = Context.of(target.prog, arguments.racy_check)
    paths = [path.of(context.kernel) for path in _paths(arguments.path, ("all",))]
    explanations: list[Explanation] = []
    failures: list[str] = []
    for page in arguments.pages:
        try:
            explanations += explain(context, [page], paths)
        except BadArgument as error:
            failures.append(str(error))
        except FaultError as error:
            failures.append(f"{page}: its struct page cannot be read ({error})")
    for failure in failures:
        print(f"drgn-thp: {printable(failure)}", file=sys.stderr)
    if not explanations:
        return FAILED
    with _output(arguments.output) as out:
        if arguments.format == "text":
            for i, explanation in enumerate(explanations):
                out.write("\n" * bool(i))
                write_explanation(explanation, out)
        else:
            records = (record for explanation in explanations for record in explanation.records)
            renderers()[arguments.format](records, out, 0)
    if failures or context.doubts.notes:
        return INCOMPLETE
    return REFUSALS if any(explanation.refused for explanation in explanations) else CLEAN


COMMANDS = {"report": _report, "folio": _folio}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    try:
        arguments = _parser().parse_args(argv)
    except SystemExit as stop:  # argparse leaves with 2, which here means an incomplete answer
        return FAILED if stop.code else CLEAN
    try:
        return COMMANDS[arguments.command](arguments)
    except BrokenPipeError:
        # Whoever read the output has seen enough (head, a pager); keep the interpreter from complaining about it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return INCOMPLETE
    except KeyboardInterrupt:
        print("drgn-thp: interrupted", file=sys.stderr)
        return FAILED
    except DrgnThpError as error:
        return _fail(arguments, str(error))
    except Exception as error:  # a defect of ours, or a dump damaged in a new way: a line, not a traceback
        return _fail(arguments, f"{type(error).__name__}: {error} (--debug shows where)")


def _fail(arguments: argparse.Namespace, message: str) -> int:
    if arguments.debug:
        traceback.print_exc()
    print(f"drgn-thp: {printable(' '.join(message.split()))}", file=sys.stderr)
    return FAILED


if __name__ == "__main__":
    sys.exit(main())
