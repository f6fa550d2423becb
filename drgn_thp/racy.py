# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Which form of the "admittedly racy check" this kernel has in isolate_migratepages_block().

829ae0f81ce0 ("mm: migrate: fix THP's mapcount on isolation") (in v6.1) made it compare with total_mapcount() instead of
page_mapcount(). Types do not tell, and distributions backport, so the machine code in the target is asked: which of the
two did the compiler call there?
"""

from __future__ import annotations

import re
import struct

from drgn import Architecture, FaultError, Program

from .errors import BadArgument
from .kernel import RacyCheck
from .layout import Layout

FUNCTION = "isolate_migratepages_block"
# Both are inline for small pages; for compound ones they call these.
OLD_CALLEES = ("__page_mapcount",)
NEW_CALLEES = ("total_mapcount", "folio_mapcount", "folio_total_mapcount")
MAX_FUNCTION_BYTES = 1 << 16


def _calls_x86_64(code: bytes, address: int) -> set[int]:
    """Return the targets of everything in the code that reads as a direct call or jump with 32-bit displacement."""
    targets = set()
    for match in re.finditer(rb"[\xe8\xe9]", code):
        end = match.start() + 5
        if end <= len(code):
            (displacement,) = struct.unpack_from("<i", code, match.start() + 1)
            targets.add((address + end + displacement) & 0xFFFFFFFFFFFFFFFF)
    return targets


def _calls_aarch64(code: bytes, address: int) -> set[int]:
    targets = set()
    for offset in range(0, len(code) - 3, 4):
        (word,) = struct.unpack_from("<I", code, offset)
        if word >> 26 in (0b100101, 0b000101):  # bl, b
            displacement = (word & 0x3FFFFFF) - ((word & 0x2000000) << 1)
            targets.add((address + offset + 4 * displacement) & 0xFFFFFFFFFFFFFFFF)
    return targets


DECODERS = {Architecture.X86_64: _calls_x86_64, Architecture.AARCH64: _calls_aarch64}


def _calls(prog: Program, names: tuple[str, ...], targets: set[int]) -> str | None:
    for name in names:
        for symbol in prog.symbols(name):
            if symbol.address in targets:
                return name
    return None


def _from_machine_code(prog: Program) -> RacyCheck | None:
    decoder = DECODERS.get(prog.platform.arch) if prog.platform else None
    if decoder is None:
        return None
    targets: set[int] = set()
    for symbol in prog.symbols(FUNCTION):
        try:
            code = prog.read(symbol.address, min(symbol.size, MAX_FUNCTION_BYTES))
        except FaultError:
            return None
        targets |= decoder(code, symbol.address)
    old, new = _calls(prog, OLD_CALLEES, targets), _calls(prog, NEW_CALLEES, targets)
    if (old is None) == (new is None):
        return None
    return RacyCheck(old is not None, f"{FUNCTION}() in this target calls {old or new}()")


def read_racy_check(prog: Program, layout: Layout, release: str, forced: str | None = None) -> RacyCheck:
    """
    Decide which form of the check the target's kernel has.

    :param forced: ``"old"`` or ``"new"``, if the user knows better
    :raises BadArgument: if ``forced`` is neither
    """
    if forced is not None:
        if forced not in ("old", "new"):
            raise BadArgument(f"--racy-check is old or new, not {forced!r}")
        return RacyCheck(forced == "old", "as asked")
    if "large_mapcount" in layout.fields:
        # Since v6.10 there is no page_mapcount() left that the check could use.
        return RacyCheck(False, "this kernel keeps the total map count of a folio (_large_mapcount)")
    found = _from_machine_code(prog)
    if found is not None:
        return found
    match = re.match(r"(\d+)\.(\d+)", release)
    version = (int(match[1]), int(match[2])) if match else (0, 0)
    return RacyCheck(version < (6, 1), f"the release {release}; distributions backport the fix", doubtful=True)
