# SPDX-License-Identifier: LGPL-2.1-or-later
"""A piece of the memmap, as read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy

from .folios import Column
from .layout import Field


@dataclass(frozen=True)
class Chunk:
    """The struct pages of consecutive page frames."""

    pfn: int
    count: int
    data: bytes
    size: int
    """Bytes of a ``struct page``."""

    def column(self, field: Field) -> Column:
        """Return a field of every struct page, whatever it means there, without copying it."""
        return numpy.ndarray((self.count,), field.dtype, self.data, field.offset, (self.size,))
