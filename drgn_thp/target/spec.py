# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the user said about the target and its debug information. Costs no import of drgn."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True)
class TargetSpec:
    """
    A target, and where to look for what describes it. Exactly one of core, kernel and qemu.

    :ivar symbols: Files to take debugging symbols from, and directories with such files.
    :ivar default_symbols: What else to load: ``"all"``, ``"main"`` (only vmlinux) or ``"none"``.
    :ivar try_symbols_by: Finders and methods of drgn to use besides its defaults. debuginfod is none of our defaults.
    :ivar btf: Take the types from this file: bare BTF, or an ELF file with a section .BTF.
    :ivar no_btf: Do not do without DWARF.
    """

    core: str | None = None
    kernel: bool = False
    qemu: str | None = None
    symbols: tuple[str, ...] = ()
    default_symbols: str = "all"
    try_symbols_by: tuple[str, ...] = ()
    no_symbols_by: tuple[str, ...] = ()
    debug_directories: tuple[str, ...] = ()
    no_default_debug_directories: bool = False
    debug_link_directories: tuple[str, ...] = ()
    no_default_debug_link_directories: bool = False
    kernel_directories: tuple[str, ...] = ()
    no_default_kernel_directories: bool = False
    architecture: str | None = None
    vmcoreinfo: str | None = None
    btf: str | None = None
    no_btf: bool = False


def add_target_arguments(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """
    Add the options that name a target, spelled as in drgn's own command line.

    :param required: Whether one of -k, -c and --qemu must be given
    """
    one = parser.add_argument_group("target").add_mutually_exclusive_group(required=required)
    one.add_argument("-k", "--kernel", action="store_true", help="the running kernel, through /proc/kcore")
    one.add_argument("-c", "--core", metavar="PATH", help="a core dump: ELF, kdump-compressed, or ELF in .gz or .zst")
    one.add_argument("--qemu", metavar="ADDRESS", help="a QEMU guest, by its QMP socket: a path, or host:port")

    group = parser.add_argument_group("debugging symbols")
    _many(group, "-s", "--symbols", help="load debugging symbols from this file, or from the files in this directory")
    some = group.add_mutually_exclusive_group()
    some.add_argument(
        "--main-symbols",
        dest="default_symbols",
        action="store_const",
        const="main",
        default="all",
        help="of what -s does not name, load only vmlinux",
    )
    some.add_argument(
        "--no-default-symbols",
        dest="default_symbols",
        action="store_const",
        const="none",
        help="load nothing but what -s names",
    )
    names = "finders and methods of drgn, with commas"
    _many(group, "--try-symbols-by", metavar="METHOD", help=f"look for symbols by these too ({names}; e.g. debuginfod)")
    _many(group, "--no-symbols-by", metavar="METHOD", help="do not look for symbols by these")
    some = group.add_mutually_exclusive_group()
    some.add_argument("--btf", metavar="PATH", help="take types from this BTF (bare, or an ELF file that has it)")
    some.add_argument("--no-btf", action="store_true", help="fail if there is no DWARF, rather than do with BTF")

    group = parser.add_argument_group("directories of debugging symbols")
    _many(group, "--debug-directory", dest="debug_directories", help="look for debugging symbols here")
    group.add_argument("--no-default-debug-directories", action="store_true", help="and not in the usual places")
    _many(group, "--debug-link-directory", dest="debug_link_directories", help="look for them by debug link here")
    group.add_argument("--no-default-debug-link-directories", action="store_true", help="and not in the usual places")
    _many(group, "--kernel-directory", dest="kernel_directories", help="look for the kernel and its modules here")
    group.add_argument("--no-default-kernel-directories", action="store_true", help="and not in the usual places")

    group = parser.add_argument_group("odd targets")
    group.add_argument("--architecture", metavar="ARCH", help="if it cannot be told from the core")
    group.add_argument("--vmcoreinfo", metavar="PATH", help="use this instead of the VMCOREINFO of the core")


def _many(group: argparse._ArgumentGroup, *names: str, metavar: str = "PATH", help: str, **options: str) -> None:
    """Add an option that may be given more than once."""
    more = f"{help}; may be given more than once"
    group.add_argument(*names, metavar=metavar, action="append", default=[], help=more, **options)  # type: ignore[arg-type]


def spec_from_arguments(arguments: argparse.Namespace) -> TargetSpec:
    """Return what the options of :func:`add_target_arguments` say."""
    given: dict[str, Any] = {field.name: getattr(arguments, field.name) for field in fields(TargetSpec)}
    for name in ("try_symbols_by", "no_symbols_by"):
        given[name] = [method for value in given[name] for method in value.split(",")]
    for name, value in given.items():
        if isinstance(value, list):
            given[name] = tuple(value)
    return TargetSpec(**given)
