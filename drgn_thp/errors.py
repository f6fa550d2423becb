# SPDX-License-Identifier: LGPL-2.1-or-later
"""Everything that drgn_thp raises on purpose: one line that says what, where and what to do."""


class DrgnThpError(Exception):
    """Base of the errors below. The command line turns one into a line on stderr and status 3."""


class UnknownLayout(DrgnThpError):
    """This kernel's types are not understood; guessing would give wrong numbers, so nothing is given."""


class TargetError(DrgnThpError):
    """The core, live kernel or debug information could not be opened."""


class BadArgument(DrgnThpError):
    """The user asked for something that does not exist: a block, a page frame, a path, a reason."""
