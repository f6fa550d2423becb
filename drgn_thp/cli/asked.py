# SPDX-License-Identifier: LGPL-2.1-or-later
"""The subcommands that are commands of a drgn session as well: the same function behind the same word."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from typing import Any

from ..commands import SUMMARIES, module_of
from ..escape import printable
from .common import (
    CLEAN,
    FAILED,
    INCOMPLETE,
    REFUSALS,
    add_format_arguments,
    add_kernel_arguments,
    open_context,
    open_output,
    show_progress,
)
from .watching import add_watch_argument, watch_refused

WITHOUT_TARGET = {"reasons"}


@dataclass(frozen=True)
class Asked:
    """A subcommand."""

    word: str

    def add(self, commands: Any) -> None:
        """Add the subcommand to the parser."""
        from ..target import add_target_arguments

        module = module_of(self.word)
        parser = commands.add_parser(self.word, help=SUMMARIES[self.word], description=module.DESCRIPTION)
        if self.word not in WITHOUT_TARGET:
            add_target_arguments(parser)
        for argument in module.arguments():
            parser.add_argument(*argument.names, **argument.options)
        if self.word == "refused":
            add_watch_argument(parser)
        add_format_arguments(parser)
        if self.word in WITHOUT_TARGET:
            parser.add_argument("--debug", action="store_true", help="show where an error comes from")
        else:
            add_kernel_arguments(parser)

    def run(self, arguments: argparse.Namespace) -> int:
        """Write the answer, and return the exit status."""
        from ..render import renderers
        from ..session import Session

        module, session = module_of(self.word), None
        if self.word not in WITHOUT_TARGET:
            session = Session.of_target(*open_context(arguments), show_progress)
        if session is not None and getattr(arguments, "watch", False):
            return watch_refused(arguments, session.context)
        answer = module.ask(session, arguments)
        for failure in answer.failures:
            print(f"drgn-thp: {printable(failure)}", file=sys.stderr)
        if answer.failures and not answer.records:
            return FAILED
        with open_output(arguments.output) as out:
            if arguments.format == "text":
                module.write(answer, out)
            else:
                renderers()[arguments.format](answer.records, out, 0)
        if answer.failures or answer.incomplete:
            return INCOMPLETE
        return REFUSALS if answer.refused else CLEAN
