# SPDX-License-Identifier: LGPL-2.1-or-later
"""Dumps with gigabytes of live pages, for measuring how fast a whole memory is read and judged."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from . import initramfs, kernels, workload
from .booted import booted
from .cache import cache_dir, drop_superseded, mark_used, new_directory
from .dumps import cache_key, check_and_dump
from .guest import Guest
from .matrix import kernel

KERNEL = "6.12"
# Boot memory in MiB; how much of it is touched is up to workload/big/main.c.
VARIANTS = {"mixed": 20 << 10, "dense": 5 << 10}


@dataclass(frozen=True)
class BigDump:
    """
    A large dump.

    :ivar variant: "mixed" has large folios of all kinds, and pins; "dense" is nearly all base pages.
    """

    variant: str
    release: str
    directory: Path
    vmlinux: Path

    @property
    def vmcore(self) -> Path:
        """The ELF core, a sparse file."""
        return self.directory / "vmcore"

    @cached_property
    def planted(self) -> dict[str, int]:
        """How much there is of each kind: counts of folios, or of references where the name ends in ``_held``."""
        planted: dict[str, int] = json.loads((self.directory / "planted.json").read_text())
        return planted


def ensure_big(variant: str) -> BigDump:
    """Return one of the large dumps, made now unless the cache has it."""
    files = kernels.fetch(kernel(KERNEL))
    dump = BigDump(variant, files.release, big_directory(files, variant), files.vmlinux)
    if not dump.directory.exists():
        with new_directory(dump.directory) as scratch:
            image = initramfs.build(files, workload.build("big"))
            # Unknown parameters with a value end up in the environment of pid 1.
            arguments = [f"big={variant}"]
            with booted(
                lambda: Guest(files.vmlinuz, image, VARIANTS[variant], hotplug_mib=0, arguments=arguments)
            ) as guest:
                _, serial = check_and_dump(files, guest, scratch)
            planted = {name: int(count) for name, count in re.findall(r"^PLANTED (\S+)=(\d+)", serial, re.MULTILINE)}
            (scratch / "planted.json").write_text(json.dumps(planted, indent=1) + "\n")
        drop_superseded(dump.directory, f"big-{variant}")
    mark_used(dump.directory)
    return dump


def big_directory(files: kernels.Files, variant: str) -> Path:
    """Return where the cache keeps a large dump, as this version of the lab would make it."""
    return cache_dir() / "dumps" / f"big-{variant}-{cache_key(files, 'big')}"
