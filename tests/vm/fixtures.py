# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Makes the fixtures from dumps of the lab: slim cores, and what readers that are not ours say of the same memory.

    python -m tests.vm.fixtures [KERNEL...]
"""

from __future__ import annotations

import argparse
import base64
import datetime
import json
import zlib
from pathlib import Path
from typing import Any

from drgn import FaultError, Program

from drgn_thp.slim import make_slim
from drgn_thp.target import TargetSpec
from tests.fixture import BUNDLED, CORE, EXPECTED, FIXTURES, KPF_COMPOUND_TAIL, SCENARIOS, core_directory

from . import view
from .elfcore import ElfCore
from .lab import Dump, ensure_dump
from .matrix import kernel

KERNELS = ("6.1", "6.12", "7.3")
_SAMPLE_EVERY = 1009  # page frames; a prime, so that no power of two is favoured

_PROVENANCE = """\
# Fixture of Linux {kernel}

`vmcore.elf.gz` is a slim core, written by `drgn-thp slim` from a dump of a guest of `tests/vm`. Make it again, with all
that stands beside it, with

```
python -m tests.vm.fixtures {kernel}
```

(needs what `pytest -m vm` needs; a newer build of the kernel gives other page frames, and another `expected.json`).
{where}
| | |
| --- | --- |
| kernel | {release} |
| package | linux-image-{release} {version} (Debian) |
| build ID | {build_id} |
| dump | `{dump}` in the cache of `python -m tests.vm.lab` |
| made on | {date} |
| pages | {pages} |

`expected.json` holds what others than drgn_thp say of the same memory:

* `marks`: what the program in the guest did with which page, and whether it holds it; page frames are those that the
  guest itself read in `/proc/PID/pagemap`;
* `kpageflags`, `kpagecount`: the guest's own `/proc/kpageflags` and `/proc/kpagecount` of node 1, where all movable
  memory of that program lies (64-bit words, zlib, base64);
* `helpers`: some pages of all memory, by drgn's helpers and DWARF on the whole dump (`tests/vm/view.py`).
"""


def make(dump: Dump) -> None:
    """Write one fixture."""
    directory, core = FIXTURES / dump.kernel, core_directory(dump.kernel)
    for path in (directory, core):
        path.mkdir(parents=True, exist_ok=True)
    made = make_slim(TargetSpec(core=str(dump.vmcore), default_symbols="none"), str(core / CORE))
    assert not made.incomplete, made.incomplete
    (core / CORE).chmod(0o644)  # there are no secrets in this guest
    _write(core / SCENARIOS, _scenarios(dump))
    _write(directory / EXPECTED, _expected(dump))
    bundled = f"\nThe core itself is part of the package, `drgn_thp/data/{dump.kernel}`, for `drgn-thp demo`.\n"
    text = _PROVENANCE.format(
        kernel=dump.kernel,
        where=bundled if dump.kernel == BUNDLED else "",
        release=dump.release,
        version=dump.version,
        build_id=ElfCore(dump.vmcore).vmcoreinfo().get("BUILD-ID", "unknown"),
        dump=dump.directory.name,
        date=datetime.date.today().isoformat(),
        pages=", ".join(f"{number} of {kind}" for kind, number in made.pages.items()),
    )
    (directory / "PROVENANCE.md").write_text(text, encoding="utf-8")
    print(f"{dump.kernel}: {made.bytes} bytes, {made.answers.folios} folios")


def _write(path: Path, value: Any) -> None:
    # A line for each entry, so that a difference can be read.
    lines = ",\n".join(f"{json.dumps(key)}: {_lines(entry)}" for key, entry in value.items())
    path.write_text("{\n" + lines + "\n}\n", encoding="utf-8")


def _lines(value: Any) -> str:
    if isinstance(value, list) and value and isinstance(value[0], list):
        return "[\n" + ",\n".join(json.dumps(entry) for entry in value) + "\n]"
    return json.dumps(value)


def _head(dump: Dump, pfn: int) -> int:
    while int(dump.kpageflags[pfn]) >> KPF_COMPOUND_TAIL & 1:
        pfn -= 1
    return pfn


def _scenarios(dump: Dump) -> dict[str, Any]:
    """Return what the demonstration needs: the names of planted folios, and where to look."""
    pfns = dump.hotplug_pfns
    folios = {hex(_head(dump, mark.pfn)): mark.scenario for mark in dump.marks if mark.pfn in pfns}
    return {"blocks": f"{pfns.start << 12:#x}-{(pfns.stop << 12) - 1:#x}", "folios": dict(sorted(folios.items()))}


def _expected(dump: Dump) -> dict[str, Any]:
    pfns = dump.hotplug_pfns
    prog = Program()
    prog.set_core_dump(dump.vmcore)
    prog.load_debug_info([dump.vmlinux])
    sample = {mark.pfn for mark in dump.marks}
    sample.update(pfn for pfn in range(0, pfns.stop, _SAMPLE_EVERY) if int(dump.kpageflags[pfn]) != (1 << 64) - 1)
    return {
        "kernel": dump.kernel,
        "release": dump.release,
        "node1": [pfns.start, pfns.stop],
        "lacks": sorted(dump.lacks),
        "kpageflags": _pack(dump.kpageflags[pfns.start : pfns.stop].astype("<u8").tobytes()),
        "kpagecount": _pack(dump.kpagecount[pfns.start : pfns.stop].astype("<u8").tobytes()),
        "marks": [[mark.scenario, mark.pfn, _head(dump, mark.pfn), mark.kind, mark.held] for mark in dump.marks],
        "helpers": [row for row in (_helpers(prog, pfn) for pfn in sorted(sample)) if row is not None],
    }


def _helpers(prog: Program, pfn: int) -> list[Any] | None:
    try:
        folio = view.folio(prog, pfn)
    except FaultError:
        return None
    flags = " ".join(sorted(folio.flags))
    return [pfn, folio.head, folio.order, folio.refcount, folio.mapcount, folio.mapping, flags]


def _pack(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data, 9)).decode()


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.vm.fixtures", description="Make the fixtures of the tests.")
    parser.add_argument("kernels", nargs="*", metavar="KERNEL", help=f"default: {' '.join(KERNELS)}")
    for name in parser.parse_args().kernels or KERNELS:
        make(ensure_dump(kernel(name)))


if __name__ == "__main__":
    _main()
