# SPDX-License-Identifier: LGPL-2.1-or-later
"""NDJSON: a record a line, written as it comes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, TextIO


def render(records: Iterable[dict[str, Any]], out: TextIO, limit: int) -> None:
    """Write each record as a line of ASCII; ``limit`` is for people and not heeded."""
    for record in records:
        out.write(json.dumps(record, separators=(",", ":")) + "\n")
