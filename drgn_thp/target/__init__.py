# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Opens what is to be looked at: a core dump, the running kernel, or a QEMU guest.

Types come from DWARF if there is a vmlinux, else from the BTF that the kernel carries in its own memory.
"""

from .opening import SLIM_NOTE, Memory, Target, open_memory, open_target, open_types
from .spec import TargetSpec, add_target_arguments, spec_from_arguments

__all__ = (
    "SLIM_NOTE",
    "Memory",
    "Target",
    "TargetSpec",
    "add_target_arguments",
    "open_memory",
    "open_target",
    "open_types",
    "spec_from_arguments",
)
