# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The guests that are made of each kernel: a scene is a program of ``workload``, and the machine that it wants.

What would get into each other's way is in scenes of its own: a page whose writeback never ends stops every path that
comes by. A new scene is a folder in ``workload`` and an entry here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Scene:
    """
    What a guest is made of.

    :ivar name: Of the program, and in the cache.
    :ivar modules: Modules to load besides those that every guest needs.
    :ivar arguments: For the kernel's command line.
    :ivar devices: For the emulator's.
    :ivar files: Files for the initramfs, by path, and what makes them.
    """

    name: str
    modules: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    files: dict[str, Callable[[], bytes]] = field(default_factory=dict)
    memory_mib: int = 448
    hotplug_mib: int = 512

    def __hash__(self) -> int:
        return hash(self.name)


LAB = Scene("lab")

HUGE = Scene("huge")

STUCK = Scene("stuck", modules=("nbd", "fuse"))

PINS = Scene("pins", modules=("nbd",))

SCENES: tuple[Scene, ...] = (LAB, HUGE, STUCK, PINS)
"""Those that the truth run asks the kernel about."""
