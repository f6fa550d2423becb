# SPDX-License-Identifier: LGPL-2.1-or-later
"""The options are those of drgn's command line, with the same meaning."""

from __future__ import annotations

import argparse
import subprocess
import sys

import pytest

from drgn_thp.target import TargetSpec, add_target_arguments, spec_from_arguments

OURS = {"--btf", "--no-btf"}
# Of processes, of an interactive session, or of no use to us.
NOT_OURS = {"--pid", "--extra-symbols", "--log-level", "--quiet", "--version", "--help"}


def parser(required: bool = True) -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(prog="test")
    add_target_arguments(result, required=required)
    return result


def parse(*arguments: str) -> TargetSpec:
    return spec_from_arguments(parser().parse_args(arguments))


def test_targets() -> None:
    assert parse("-c", "vmcore") == parse("--core", "vmcore") == TargetSpec(core="vmcore")
    assert parse("-k") == parse("--kernel") == TargetSpec(kernel=True)
    assert parse("--qemu", "localhost:4444") == TargetSpec(qemu="localhost:4444")


def test_symbols() -> None:
    assert parse("-k", "-s", "a", "--symbols", "b").symbols == ("a", "b")
    assert parse("-k").default_symbols == "all"
    assert parse("-k", "--main-symbols").default_symbols == "main"
    assert parse("-k", "--no-default-symbols").default_symbols == "none"
    spec = parse("-k", "--try-symbols-by", "debuginfod,kmod=walk", "--no-symbols-by", "procfs")
    assert (spec.try_symbols_by, spec.no_symbols_by) == (("debuginfod", "kmod=walk"), ("procfs",))


def test_directories() -> None:
    spec = parse(
        *("-k", "--debug-directory", "a", "--debug-directory", "b", "--kernel-directory", "c"),
        *("--debug-link-directory", "d", "--no-default-debug-directories", "--no-default-kernel-directories"),
    )
    assert spec.debug_directories == ("a", "b")
    assert spec.kernel_directories == ("c",)
    assert spec.debug_link_directories == ("d",)
    assert spec.no_default_debug_directories
    assert spec.no_default_kernel_directories
    assert not spec.no_default_debug_link_directories


def test_btf() -> None:
    assert parse("-k", "--btf", "file").btf == "file"
    assert parse("-k", "--no-btf").no_btf
    assert parse("-k", "--vmcoreinfo", "file", "--architecture", "x86_64").vmcoreinfo == "file"


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("-k", "-c", "vmcore"),
        ("-c", "vmcore", "--qemu", "socket"),
        ("-k", "--main-symbols", "--no-default-symbols"),
        ("-k", "--btf", "file", "--no-btf"),
    ],
)
def test_contradictions(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(*arguments)
    assert "usage" in capsys.readouterr().err


def test_no_target_need_be_named() -> None:
    assert spec_from_arguments(parser(required=False).parse_args([])) == TargetSpec()


def options_in(help_text: str) -> set[str]:
    return {word.strip(",") for word in help_text.split() if word.startswith("--")}


def test_same_spelling_as_drgn() -> None:
    """Ours but --btf are drgn's; and drgn's, in the version at hand, are ours but for a few."""
    theirs = subprocess.run(
        [sys.executable, "-m", "drgn", "--help"], capture_output=True, text=True, check=True, env={"COLUMNS": "1000"}
    ).stdout
    ours = parser().format_help()
    named = {option.rstrip("].)") for option in options_in(theirs)} - NOT_OURS
    assert {option for action in parser()._actions for option in action.option_strings} >= {
        option for option in named if option.strip("-")
    }, ours
