# SPDX-License-Identifier: LGPL-2.1-or-later
"""What gates ask of an address_space: who migrates its folios, and whether anybody may."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class MigrateOp(IntEnum):
    """What ``a_ops->migrate_folio`` (``migratepage`` before v6.0) does, as far as refusing goes."""

    NONE = 0  # fallback_migrate_folio()
    PLAIN = 1  # only the reference count matters
    BUFFER = 2
    BUFFER_NOREFS = 3
    BTREE = 4
    NFS = 5
    AIO = 6
    SECRETMEM = 7
    GUEST_MEMFD = 8
    OTHER = 9  # a filesystem's own, which may refuse for reasons of its own
    UNKNOWN = 10  # the address_space could not be read


@dataclass(frozen=True)
class MappingKind:
    """One combination of what gates ask of an address_space."""

    name: str
    """The symbol of its operations, or what else is known."""
    migrate: MigrateOp
    migrate_function: str = ""
    has_writepage: bool = False
    inaccessible: bool = False
    min_order: int = 0
