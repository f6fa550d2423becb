# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which processes map a folio, and where."""

from .find import Mappers, Mapping, find_mappers
from .vmas import Vma

__all__ = ["Mappers", "Mapping", "Vma", "find_mappers"]
