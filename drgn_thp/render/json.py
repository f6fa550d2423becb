# SPDX-License-Identifier: LGPL-2.1-or-later
"""JSON: one array of the records, in the order in which NDJSON has them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, TextIO


def render(records: Iterable[dict[str, Any]], out: TextIO, limit: int) -> None:
    """Write all records as one array, each as it comes; ``limit`` is for people and not heeded."""
    out.write("[")
    for i, record in enumerate(records):
        out.write(("," if i else "") + "\n" + json.dumps(record))
    out.write("\n]\n")
