# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Pages for the examples in the documentation, in the small dump of a real kernel (6.12) that comes with the package.

The program in that guest put pages in known states, each under a name; ``example("thp_held")`` is one of them. Every
example works as it is written, without a dump of one's own:

>>> from drgn_thp import *
>>> from drgn_thp.examples import example
>>> page_mapcount(example("thp"))
1
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from drgn import Object, Program
from drgn.helpers.linux.mm import pfn_to_page

from .errors import BadArgument
from .target import TargetSpec, open_target

DIRECTORY = Path(__file__).parent / "data" / "6.12"
# What the guest calls them says how they were made; here is what they are for.
NAMES = {"thp": "thp_pmd"}


@cache
def example_program() -> Program:
    """Open the dump, with the types that the kernel itself carries. Everybody gets the same one."""
    return open_target(TargetSpec(core=str(DIRECTORY / "vmcore.elf.gz"), default_symbols="none")).prog


@cache
def _planted() -> dict[str, list[int]]:
    folios = json.loads((DIRECTORY / "scenarios.json").read_text(encoding="utf-8"))["folios"]
    planted: dict[str, list[int]] = {}
    for pfn, name in folios.items():
        planted.setdefault(name, []).append(int(pfn, 16))
    return planted


def example(name: str) -> Object:
    """
    Return a page in a known state: the head of the last folio that is in it.

    :param name: A scenario of the guest's; the message of the error lists them
    :return: ``struct page *``
    :raises BadArgument: if there is no such scenario
    """
    try:
        pfns = _planted()[NAMES.get(name, name)]
    except KeyError:
        raise BadArgument(f"no example {name!r}; there are {', '.join(sorted({*_planted(), *NAMES}))}") from None
    page: Object = pfn_to_page(example_program(), pfns[-1])
    return page
