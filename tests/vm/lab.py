# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The lab's command, and the names that tests import from it.

    python -m tests.vm.lab dump [--refresh] [--scene SCENE] [KERNEL...]
    python -m tests.vm.lab big [mixed] [dense]
    python -m tests.vm.lab list
    python -m tests.vm.lab clean
"""

from __future__ import annotations

import argparse
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .big import VARIANTS, BigDump, big_directory, ensure_big
from .cache import cache_dir
from .dumps import UNREAD, Dump, Mark, dump_directory, ensure_dump
from .kernels import newest_cached
from .matrix import IMAGE_ONLY, KERNELS, WITH_DRIVERS, kernel
from .scenes import ALL_SCENES, DRIVERS, LAB

__all__ = ["UNREAD", "BigDump", "Dump", "Mark", "ensure_big", "ensure_dump"]


def _dump(options: argparse.Namespace) -> None:
    scene = next(scene for scene in ALL_SCENES if scene.name == options.scene)
    chosen = [kernel(name) for name in options.kernels] or list(WITH_DRIVERS if scene is DRIVERS else KERNELS)
    # One is fetched while another boots.
    with ThreadPoolExecutor(2) as pool:
        for dump in pool.map(lambda entry: ensure_dump(entry, options.refresh, scene), chosen):
            print(f"{dump.kernel}: {dump.vmcore} ({dump.version}, {len(dump.marks)} marks)", flush=True)


def _big(options: argparse.Namespace) -> None:
    for variant in options.variants or VARIANTS:
        print(ensure_big(variant).vmcore, flush=True)


def _entries() -> dict[Path, bool]:
    """Return what the cache holds of kernels and dumps, and whether that is current."""
    entries = dict.fromkeys((p.parent for p in cache_dir().glob("dumps/*/vmcore")), False)
    entries.update(dict.fromkeys((p.parent for p in cache_dir().glob("kernels/*/*/meta.json")), False))
    for entry in (*KERNELS, *IMAGE_ONLY, *WITH_DRIVERS):
        files = newest_cached(entry)
        if files:
            scenes = (dump_directory(files, scene) for scene in ALL_SCENES)
            current = [files.directory, *scenes, *(big_directory(files, v) for v in VARIANTS)]
            entries.update((path, True) for path in current if path in entries)
    return entries


def _list(options: argparse.Namespace) -> None:
    for path, current in sorted(_entries().items()):
        print(path if current else f"{path} (superseded)")


def _clean(options: argparse.Namespace) -> None:
    for path, current in sorted(_entries().items()):
        if not current:
            print(path)
            shutil.rmtree(path)


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.vm.lab", description="Make and list dumps of real kernels.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    dump = commands.add_parser("dump", help="make the dumps that are not in the cache")
    dump.add_argument("kernels", nargs="*", metavar="KERNEL", help="default: all of the matrix")
    dump.add_argument(
        "--scene", choices=[scene.name for scene in ALL_SCENES], default=LAB.name, help="default: %(default)s"
    )
    dump.add_argument("--refresh", action="store_true", help="look for newer versions of the kernels")
    dump.set_defaults(run=_dump)
    big = commands.add_parser("big", help="make the dumps for benchmarks")
    big.add_argument("variants", nargs="*", metavar="VARIANT", help=f"default: {' '.join(VARIANTS)}")
    big.set_defaults(run=_big)
    commands.add_parser("list", help="show the kernels and dumps in the cache").set_defaults(run=_list)
    commands.add_parser("clean", help="delete those that are superseded").set_defaults(run=_clean)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    _main()
