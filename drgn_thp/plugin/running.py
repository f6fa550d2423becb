# SPDX-License-Identifier: LGPL-2.1-or-later
"""Runs a command in a drgn session: the same function as the subcommand of the same name."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from drgn import Object, Program
from drgn.commands import CommandError, CommandNamespace, argument, command

from ..cli.common import show_progress
from ..commands import SUMMARIES, module_of
from ..errors import DrgnThpError
from ..escape import printable
from ..session import Session
from .lazy import HelpShown


class _Help(argparse.Action):
    """``-h``: drgn's own commands have none, and its parsers turn the usual one into an error."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        parser.print_help()
        raise HelpShown


class _Keep(CommandNamespace):
    """Keeps the command that is registered."""

    kept: Any = None

    def register(self, name: str, command: Any) -> None:
        self.kept = command


def make(word: str) -> Any:
    """Return a command as drgn makes them: with its parser, pipes and redirections."""
    module = module_of(word)
    arguments = [argument(*each.names, **each.options) for each in module.arguments()]
    help_ = argument("-h", "--help", action=_Help, nargs=0, help="show this")
    keep = _Keep()

    def run(prog: Program, name: str, args: argparse.Namespace, **kwargs: Any) -> Any:
        return _run(word, prog, args, kwargs.get("globals", {}))

    make_command: Any = command
    make_command(
        name=word,
        description=SUMMARIES[word],
        long_description=module.DESCRIPTION,
        arguments=(*arguments, help_),
        namespace=keep,
    )(run)
    return keep.kept


def _run(word: str, prog: Program, arguments: argparse.Namespace, variables: dict[str, Any]) -> Any:
    """
    Answer, and return the answer as Python objects.

    :raises CommandError: if there is none; drgn makes a line of it
    """
    module = module_of(word)
    if word == "folio":
        arguments.pages = [_address_of(text, variables) for text in arguments.pages]
    try:
        answer = module.ask(Session.of(prog, show_progress), arguments)
    except DrgnThpError as error:
        raise CommandError(printable(str(error))) from None
    if answer.failures and not answer.records:
        raise CommandError(printable("; ".join(answer.failures)))
    for failure in answer.failures:
        sys.stderr.write(f"{word}: {printable(failure)}\n")
    module.write(answer, sys.stdout)
    return answer.value


def _address_of(text: str, variables: dict[str, Any]) -> str:
    """Return what a variable of the session points to, if it is the name of one."""
    value = variables.get(text)
    return f"{value.value_():#x}" if isinstance(value, Object) else text
