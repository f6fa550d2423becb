# SPDX-License-Identifier: LGPL-2.1-or-later
"""DWARF: from the files that the user names, or where drgn finds it by itself."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import drgn
from drgn import Program

from ..errors import TargetError
from .elf import ET_DYN, ET_EXEC, ET_REL, read_elf
from .spec import TargetSpec
from .vmcoreinfo import read_vmcoreinfo

MAX_FILES = 20000
_IN_DIRECTORIES = ("vmlinux", ".ko", ".debug")


def load_dwarf(prog: Program, spec: TargetSpec, target: str, notes: list[str]) -> str | None:
    """
    Load DWARF into a Program.

    :return: Path of the kernel's, or None if there is none
    :raises TargetError: if a file that the user named is none, or of another kernel than the target
    """
    _set_options(prog, spec)
    expected = read_vmcoreinfo(prog).get("BUILD-ID", "")
    paths = list(_files(spec.symbols, expected, target))
    more: dict[str, bool] = {"default": True} if spec.default_symbols == "all" else {}
    try:
        prog.load_debug_info(paths, **({"main": True} if spec.default_symbols == "main" else more))
    except drgn.MissingDebugInfoError:
        pass  # what is missing is looked for below
    except OSError as error:
        raise TargetError(f"{error.filename or target}: {error.strerror or error}") from error
    try:
        kernel = prog.main_module()
    except LookupError:
        return None
    if kernel.debug_file_path is None:
        if not expected:
            # Nothing tells whether they fit; what they say of types is compared with VMCOREINFO later.
            for path in paths:
                if not kernel.wants_debug_file():
                    break
                if _is_kernel(path):
                    kernel.try_file(path, force=True)
        if kernel.debug_file_path is None and any(_is_kernel(path) for path in paths):
            raise TargetError(
                f"{', '.join(spec.symbols)}: no debugging symbols in it (stripped): --btf would take its BTF"
            )
    found: str | None = kernel.debug_file_path
    if found is not None:
        _note_missing_modules(prog, notes)
    return found


def _note_missing_modules(prog: Program, notes: list[str]) -> None:
    missing = sorted(module.name for module in prog.modules() if module.wants_debug_file())
    if missing:
        shown = ", ".join(missing[:5]) + (", …" if len(missing) > 5 else "")
        notes.append(f"no debugging symbols for {len(missing)} modules ({shown}): their own types are unknown")


def _files(symbols: tuple[str, ...], expected: str, target: str) -> Iterator[str]:
    """
    Return the files that the user named, having looked at each.

    :param expected: Build ID of the target's kernel, in hexadecimal; empty if unknown
    """
    for path in symbols:
        if not os.path.isdir(path):
            _check(path, expected, target)
            yield path
            continue
        found = 0
        for directory, _, names in os.walk(path):
            for name in sorted(names):
                if name.startswith(_IN_DIRECTORIES[0]) or name.endswith(_IN_DIRECTORIES[1:]):
                    file = os.path.join(directory, name)
                    found += 1
                    # Others in the directory may be of other kernels.
                    if found <= MAX_FILES and _fits(file, expected):
                        yield file
        if not found:
            raise TargetError(f"{path}: neither vmlinux nor modules in this directory")


def _check(path: str, expected: str, target: str) -> None:
    try:
        type_, build_id = _identify(path)
    except OSError as error:
        raise TargetError(f"{path}: {error.strerror or error}") from error
    if type_ not in (ET_REL, ET_EXEC, ET_DYN):
        raise TargetError(f"{path}: no file with debugging symbols (not a 64-bit ELF file)")
    if type_ == ET_REL or not expected:
        return  # drgn takes those of modules that are loaded
    if build_id is None:
        raise TargetError(f"{path}: has no build ID, so nothing tells that it belongs to {target}")
    if build_id.hex() != expected:
        raise TargetError(
            f"{path}: belongs to another kernel than {target} (build ID {build_id.hex()}, not {expected})"
        )


def _fits(path: str, expected: str) -> bool:
    try:
        type_, build_id = _identify(path)
    except OSError:
        return False
    return type_ == ET_REL or (type_ in (ET_EXEC, ET_DYN) and build_id is not None and build_id.hex() == expected)


def _is_kernel(path: str) -> bool:
    return _identify(path)[0] in (ET_EXEC, ET_DYN)


def _identify(path: str) -> tuple[int, bytes | None]:
    """Return the ELF type of a file, 0 if it is not ELF, and its build ID."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        elf = read_elf(fd)
        return (0, None) if elf is None else (elf.type, None if elf.type == ET_REL else elf.build_id())
    finally:
        os.close(fd)


def _set_options(prog: Program, spec: TargetSpec) -> None:
    finders = prog.enabled_debug_info_finders()
    # It asks servers, and a server that does not answer holds us up for minutes.
    finders = [name for name in finders if name != "debuginfod"]
    options: Any = prog.debug_info_options
    for methods, enable in ((spec.try_symbols_by, True), (spec.no_symbols_by, False)):
        for method in methods:
            if method in prog.registered_debug_info_finders():
                finders = [name for name in finders if name != method] + [method] * enable
            elif method.startswith("kmod") and (enable or method == "kmod"):
                options.try_kmod = _kmod_method(method if enable else "kmod=none")
            else:
                attribute = "try_" + method.replace("-", "_")
                if not isinstance(getattr(options, attribute, None), bool):
                    raise TargetError(f"{method}: drgn knows no such way to find debugging symbols")
                setattr(options, attribute, enable)
    prog.set_enabled_debug_info_finders(finders)
    for name, ours, no_default in (
        ("directories", spec.debug_directories, spec.no_default_debug_directories),
        ("debug_link_directories", spec.debug_link_directories, spec.no_default_debug_link_directories),
        ("kernel_directories", spec.kernel_directories, spec.no_default_kernel_directories),
    ):
        setattr(options, name, ours if no_default else ours + tuple(getattr(options, name)))


def _kmod_method(method: str) -> Any:
    try:
        return drgn.KmodSearchMethod[method.partition("=")[2].upper().replace("-", "_")]
    except KeyError:
        raise TargetError(f"{method}: drgn knows no such way to find modules") from None


@contextmanager
def captured_log() -> Iterator[list[str]]:
    """Keep drgn from writing its log to the terminal, and collect its warnings."""

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(" ".join(record.getMessage().split()))

    lines: list[str] = []
    logger, handler = logging.getLogger("drgn"), Collector(logging.WARNING)
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate
