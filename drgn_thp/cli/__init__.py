# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The command line: ``drgn-thp``, one module for each subcommand.

Exit status: 0 ran, nothing refused; 1 ran, refusals found; 2 ran, but something is missing from the answer (the output
says what); 3 could not run.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from ..commands import SUMMARIES
from ..errors import DrgnThpError
from ..escape import printable
from . import demo, report, slim
from .asked import Asked
from .common import CLEAN, FAILED, INCOMPLETE

COMMANDS: dict[str, Any] = {
    "report": report,
    **{word: Asked(word) for word in SUMMARIES},
    "slim": slim,
    "demo": demo,
}


class _Version(argparse.Action):
    """Says which drgn_thp and which drgn this is: what a bug report has to say. Looked up when asked for only."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import PackageNotFoundError, version

        try:
            own = version("drgn_thp")
        except PackageNotFoundError:
            own = "(not installed)"
        print(f"{parser.prog} {own}, drgn {version('drgn')}, Python {sys.version.split()[0]}")
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="drgn-thp",
        description="Which folios would this Linux kernel refuse to migrate, by which of its own checks?",
        epilog="exit status: 0 nothing refused, 1 refusals found, 2 incomplete, 3 could not run",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the versions of drgn_thp and drgn, and exit")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in COMMANDS.values():
        module.add(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    try:
        arguments = _parser().parse_args(argv)
    except SystemExit as stop:  # argparse leaves with 2, which here means an incomplete answer
        return FAILED if stop.code else CLEAN
    try:
        status: int = COMMANDS[arguments.command].run(arguments)
        return status
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
