# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which processes map a folio, and where."""

from .find import Mappers, Mapping, find_mappers
from .suspects import Suspects
from .vmas import Vma

__all__ = ["Mappers", "Mapping", "Suspects", "Vma", "find_mappers"]
