# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Makes the fixture of a kernel that records who allocates pages. No kernel of Debian's does, so one has to be built.

    apt-get source linux, or unpack linux-source-6.1; in it, with tests/vm/page_owner.config:
    make KCONFIG_ALLCONFIG=.../page_owner.config allnoconfig && make bzImage
    python -m tests.vm.page_owner arch/x86/boot/bzImage

What should come out is what the guest read in /sys/kernel/debug/page_owner.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from pathlib import Path
from typing import Any

from drgn_thp.context import Context
from drgn_thp.slim import make_slim
from drgn_thp.target import TargetSpec, open_target
from tests.fixture import CORE, EXPECTED, FIXTURES

from . import initramfs, workload
from .booted import booted
from .guest import Guest
from .kernels import Files
from .scenes import Scene

NAME = "page_owner"
SCENE = Scene("owner", memory_mib=224, hotplug_mib=128, arguments=("page_owner=on",))
# "allocated via order 0, mask 0x...(GFP...), pid 1, tgid 1 (init), ts 123 ns, free_ts 0 ns", "PFN ...", and the stack.
HEAD = re.compile(r"allocated via order (\d+), mask (0x[0-9a-f]+)\(.*?\), pid (\d+), tgid (\d+) \((.*)\), ts (\d+) ns")
FRAME = re.compile(r"^ (\w[\w.]*\+0x[0-9a-f]+)/0x[0-9a-f]+$", re.MULTILINE)


def owners(serial: str) -> list[dict[str, Any]]:
    """Return what the guest printed of each page."""
    found = []
    for match in re.finditer(r"^OWNER (\w+) (0x[0-9a-f]+) (\d+) \d+\n(.*?)\n\n", serial, re.MULTILINE | re.DOTALL):
        name, asked, pid, text = match.groups()
        head, pfn = HEAD.search(text), re.search(r"^PFN (\w+)", text, re.MULTILINE)
        assert head, text
        assert pfn, text
        found.append(
            {
                "page": name,
                "pfn": int(pfn[1], 0),  # tails are passed over, so it need not be the page that was asked for
                "asked": int(asked, 16),
                "by": int(pid),
                "order": int(head[1]),
                "gfp_mask": int(head[2], 16),
                "pid": int(head[3]),
                "tgid": int(head[4]),
                "comm": head[5],
                "seconds": int(head[6]) / 1e9,
                "stack": FRAME.findall(text),
            }
        )
    return found


def make(vmlinuz: Path) -> None:
    """Boot, dump, and write the fixture."""
    files = Files(NAME, "", "", vmlinuz.parent)  # without modules
    directory = FIXTURES / NAME
    directory.mkdir(parents=True, exist_ok=True)
    image = initramfs.build(files, workload.build(SCENE.name), SCENE)
    with tempfile.TemporaryDirectory(prefix="owner.") as scratch:
        core = Path(scratch) / "vmcore"
        with booted(
            lambda: Guest(vmlinuz, image, SCENE.memory_mib, SCENE.hotplug_mib, arguments=SCENE.arguments)
        ) as guest:
            found = owners(guest.serial())
            assert "FAIL" not in guest.serial(), guest.serial()
            guest.dump(core)
        context = Context.of(open_target(TargetSpec(core=str(core), default_symbols="none")).prog)
        for owner in found:
            allocation = context.allocation(owner["pfn"])
            assert allocation is not None
            assert allocation.record() == {name: owner[name] for name in allocation.record()}
        made = make_slim(TargetSpec(core=str(core), default_symbols="none"), str(directory / CORE))
    (directory / CORE).chmod(0o644)
    lines = ",\n".join(json.dumps(owner) for owner in found)
    (directory / EXPECTED).write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    print(f"{made.release}: {made.bytes} bytes, {len(found)} pages, missing: {made.incomplete}")


def _main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.vm.page_owner", description="Make the fixture of page_owner."
    )
    parser.add_argument("vmlinuz", type=Path, metavar="BZIMAGE")
    make(parser.parse_args().vmlinuz.resolve())


if __name__ == "__main__":
    _main()
