# SPDX-License-Identifier: LGPL-2.1-or-later
"""What comes out of a dump is untrusted: nothing of it may steer a terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    """Return text with everything that is not printable as an escape: control characters, line breaks, bidi marks."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
