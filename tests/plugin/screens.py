# SPDX-License-Identifier: LGPL-2.1-or-later
"""
docs/commands.md, whose screens come from a real session: ``python -m tests.plugin.screens`` writes it.

The session is one on the dump that comes with the package; which page frames are asked for follows from what the
program in that guest did with them.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from drgn_thp.commands import SUMMARIES
from drgn_thp.examples import example
from tests.fixture import ALL, BUNDLED, Fixture
from tests.plugin.terminal import Terminal, unpacked
from tests.tree import ROOT

PAGE = ROOT / "docs" / "commands.md"
INTRODUCTION = """\
# Commands of a drgn session

<!-- Written by python -m tests.plugin.screens from a session: edit there. -->

Where drgn_thp is installed, every drgn session on a Linux kernel has these commands. Each is the subcommand of the same
name (`drgn-thp thp`): the same function, and the same answer. As with any command of drgn, output can be piped
(`%thp | grep pte`) and redirected (`%thp > file`); what a command found is in `_` as Python objects, records as in
[schema.md](schema.md), and `drgn.commands.run_command(prog, "thp")` returns them. Ctrl-C ends a long scan: what it has
found until then is shown, and said to be incomplete. Where drgn has no debugging symbols, types are taken from the BTF
in the kernel's own memory.

The screens are of a session on the dump that comes with the package, `drgn_thp/data/6.12/vmcore.elf.gz`, unpacked;
drgn 0.0.33 and newer have commands.
"""


def bundled() -> Fixture:
    """Return the fixture that the screens are of."""
    return next(fixture for fixture in ALL if fixture.kernel == BUNDLED)


def pfn(name: str) -> str:
    """Return the page frame of an example."""
    page = example(name)
    return hex((page.value_() - int(page.prog_["vmemmap"].value_())) // page.type_.type.size)


def lines_of(word: str) -> list[str]:
    """Return what is typed for a command, after asking for its help."""
    held, cow = pfn("thp_held"), pfn("thp_cow")
    lines = {
        "memblocks": ["%memblocks 32-33", "_[0]['paths']['offline']['verdict']"],
        "refused": ["%refused offline 32", "%refused split 32"],
        "folio": [
            f"%folio {held} --path contig --path split",
            f"page = pfn_to_page({cow})",
            "%folio page --path contig | head -n 12",
            "%folio pfn:0xfffffffff",
        ],
        "thp": ["%thp 32"],
        "swapcache": ["%swapcache 32", "sum(record['swapcache_references'] for record in _)"],
        "ksm": ["%ksm 32"],
        "reasons": ["%reasons extra-reference racy-pin-check"],
        "virtio_mem": ["%virtio_mem 32-33"],
    }
    return lines[word]


def record(core: Path) -> str:
    """Return the page, with the screens of a session on a core."""
    parts = [INTRODUCTION]
    with Terminal(core) as terminal:
        for word, summary in SUMMARIES.items():
            parts.append(f"## %{word}\n\n{summary[0].upper()}{summary[1:]}.\n")
            screens = [f">>> {line}\n{terminal.type(line)}" for line in (f"%{word} -h", *lines_of(word))]
            parts.append("```\n" + "".join(re.sub(r"[ \t]+$", "", screen, flags=re.M) for screen in screens) + "```\n")
    # Until Python 3.10, argparse called them so.
    return "\n".join(parts).replace("\noptional arguments:", "\noptions:")


def main() -> None:
    """Write the page."""
    with tempfile.TemporaryDirectory() as directory:
        PAGE.write_text(record(unpacked(bundled(), Path(directory))), encoding="utf-8")


if __name__ == "__main__":
    main()
