# SPDX-License-Identifier: LGPL-2.1-or-later
"""Commands that cost nothing until they are used: a name and a line of description."""

from __future__ import annotations

import importlib
from typing import Any

from drgn import Program, ProgramFlags
from drgn.commands import DEFAULT_COMMAND_NAMESPACE, CommandNamespace

from ..commands import SUMMARIES


class HelpShown(Exception):
    """The user asked for help, and has it."""


class LazyCommand:
    """A command of drgn's (``drgn.commands.Command``) that is made when it is first needed."""

    def __init__(self, word: str) -> None:
        self.word = word
        self._command: Any = None

    def description(self) -> str:
        """Return a line on what it does."""
        return SUMMARIES[self.word]

    def enabled(self, prog: Program) -> bool:
        """Return whether the program is a kernel: nothing else has folios."""
        return bool(prog.flags & ProgramFlags.IS_LINUX_KERNEL)

    def run(self, prog: Program, name: str, args: Any, **kwargs: Any) -> Any:
        """Run the command."""
        try:
            return self._made().run(prog, name, args, **kwargs)
        except HelpShown:
            return None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._made(), name)

    def _made(self) -> Any:
        if self._command is None:
            running = importlib.import_module(f"{__package__}.running")
            self._command = running.make(self.word)
        return self._command


def register(namespace: CommandNamespace = DEFAULT_COMMAND_NAMESPACE) -> None:
    """Add our commands; a word that drgn itself uses stays drgn's."""
    taken = {name for name, _ in getattr(namespace, "_commands", {}).items()}
    for word in SUMMARIES:
        if word not in taken:
            namespace.register(word, LazyCommand(word))
