# SPDX-License-Identifier: LGPL-2.1-or-later
"""Real kernels: what BTF, kallsyms and our table of variables say, against what the DWARF of the same build says."""

from __future__ import annotations

import gc
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy
import pytest
from drgn import FaultError, Object, Program, Type, TypeKind, container_of, sizeof
from drgn.helpers.linux.cpumask import for_each_online_cpu, for_each_possible_cpu
from drgn.helpers.linux.device import bus_for_each_dev
from drgn.helpers.linux.fs import d_path, for_each_file, for_each_mount
from drgn.helpers.linux.kallsyms import load_module_kallsyms
from drgn.helpers.linux.list import list_for_each_entry
from drgn.helpers.linux.mm import cmdline, decode_page_flags, for_each_page, for_each_vma
from drgn.helpers.linux.mmzone import for_each_online_pgdat
from drgn.helpers.linux.module import for_each_module
from drgn.helpers.linux.percpu import per_cpu
from drgn.helpers.linux.pid import find_task, for_each_task
from drgn.helpers.linux.slab import for_each_slab_cache, slab_cache_usage

import drgn_thp
from drgn_thp.context import Context
from drgn_thp.errors import TargetError
from drgn_thp.target import Target, TargetSpec, open_target, qmp
from drgn_thp.target.globals import GLOBALS
from tests.vm import initramfs, kernels, workload
from tests.vm.booted import booted, wait_until_ready
from tests.vm.guest import Guest
from tests.vm.lab import Dump, ensure_dump
from tests.vm.matrix import KERNELS, kernel

pytestmark = pytest.mark.vm

# Kernels that carry all that is needed.
WITH_BTF = [entry for entry in KERNELS if tuple(map(int, entry.name.split("."))) >= (6, 0)]
SOURCES = [*Path(drgn_thp.__file__).parent.rglob("*.py")]


@dataclass(frozen=True)
class Pair:
    """The same dump, opened both ways."""

    dump: Dump
    btf: Target
    dwarf: Target


@pytest.fixture(scope="module", params=[entry.name for entry in WITH_BTF])
def pair(request: pytest.FixtureRequest) -> Pair:
    dump = ensure_dump(kernel(request.param))
    btf = open_target(TargetSpec(core=str(dump.vmcore), default_symbols="none"))
    dwarf = open_target(TargetSpec(core=str(dump.vmcore), symbols=(str(dump.vmlinux),)))
    assert btf.types_source == "BTF in the dump"
    assert dwarf.types_source == f"DWARF of {dump.vmlinux}"
    assert dwarf.has_unwinder
    assert not btf.has_unwinder
    return Pair(dump, btf, dwarf)


def test_opens_within_a_second(pair: Pair) -> None:
    """Of this process's own time: how long others on the machine keep it waiting says nothing about it."""

    def opening() -> float:
        start = time.process_time()
        open_target(TargetSpec(core=str(pair.dump.vmcore), default_symbols="none"))
        return time.process_time() - start

    assert min(opening() for _ in range(5)) <= 1.0


def in_sources(pattern: str) -> list[str]:
    return sorted({match for path in SOURCES for match in re.findall(pattern, path.read_text())})


def shape(type_: Type, depth: int = 0) -> object:
    """Return what two types must have in common: everything by value, and what is pointed to by name."""
    if type_.kind == TypeKind.TYPEDEF:
        return "typedef", type_.name, shape(type_.type, depth)
    if type_.kind in (TypeKind.STRUCT, TypeKind.UNION):
        if type_.members is None or (depth and type_.tag):
            return str(type_.kind), type_.tag
        members = list(type_.members)
        return (
            str(type_.kind),
            type_.tag,
            type_.size,
            [
                (m.name, m.bit_offset, m.bit_field_size, shape_of_member(m.type, depth, m is members[-1]))
                for m in members
            ],
        )
    if type_.kind == TypeKind.ENUM:
        integer = type_.type
        return (
            "enum",
            type_.tag,
            integer and (integer.size, integer.is_signed),
            sorted((e.name, e.value) for e in type_.enumerators or ()),
        )
    if type_.kind == TypeKind.POINTER:
        return "*", shape(type_.type, depth + 1) if depth < 3 else ""
    if type_.kind == TypeKind.ARRAY:
        return "[]", flattened(type_)
    if type_.kind == TypeKind.INT:
        return type_.name, type_.size, type_.is_signed
    return str(type_.kind)


def shape_of_member(type_: Type, depth: int, last: bool) -> object:
    # "T x[0]" and "T x[]" are the same in BTF.
    if type_.kind == TypeKind.ARRAY and last and not type_.length:
        return "[]", shape(type_.type, depth + 1)
    return shape(type_, depth + 1)


def flattened(type_: Type) -> object:
    """Return the elements of an array: BTF does not keep apart the dimensions of one that has several."""
    length = 1
    while type_.kind == TypeKind.ARRAY:
        length *= type_.length or 0
        type_ = type_.type
    return length, shape(type_, 3)


def names_of_types(prog: Program) -> list[str]:
    """Return the types that our sources name, and with them all that they point to or hold."""
    waiting = [*in_sources(r"\b(?:struct|union|enum) [a-z_]\w+"), "atomic_t", "nodemask_t", "unsigned long", "size_t"]
    names: dict[str, None] = {}
    while waiting:
        name = waiting.pop()
        if name in names:
            continue
        try:
            type_ = prog.type(name)
        except LookupError:
            continue
        names[name] = None
        for member in type_.members or () if type_.kind in (TypeKind.STRUCT, TypeKind.UNION) else ():
            inner = member.type
            while inner.kind in (TypeKind.POINTER, TypeKind.ARRAY):
                inner = inner.type
            if inner.kind in (TypeKind.STRUCT, TypeKind.UNION, TypeKind.ENUM) and inner.tag and inner.is_complete():
                waiting.append(f"{inner.kind.name.lower()} {inner.tag}")
    return list(names)


def test_types(pair: Pair) -> None:
    """Our own, and the thousands that they lead to."""
    names = names_of_types(pair.btf.prog)
    assert len(names) > 500
    missing, different = [], []
    for name in names:
        try:
            expected = shape(pair.dwarf.prog.type(name))
        except LookupError:
            missing.append(name)  # a struct without a definition of its own in DWARF's index
            continue
        if shape(pair.btf.prog.type(name)) != expected:
            different.append(name)
    assert different == []
    assert len(missing) < 10


def test_types_that_a_kernel_lacks(pair: Pair) -> None:
    def lacks(prog: Program, name: str) -> bool:
        try:
            prog.type(name)
        except LookupError:
            return True
        return False

    names = in_sources(r"\b(?:struct|union|enum) [a-z_]\w+")
    lacking = [[name for name in names if lacks(target.prog, name)] for target in (pair.btf, pair.dwarf)]
    # The modules' debug information is not loaded on the DWARF side, but their BTF is in the dump.
    assert [name for name in lacking[1] if "virtio" not in name] == [n for n in lacking[0] if "virtio" not in n]


def value_of(prog: Program, name: str) -> int | None:
    try:
        return int(prog.constant(name).value_())
    except (LookupError, TypeError):  # TypeError: UTS_RELEASE
        return None


def test_enumerators(pair: Pair) -> None:
    names = in_sources(r"\"([A-Z][A-Za-z_]*_[A-Za-z_0-9]+)\"")
    assert "PG_locked" in names
    found = {name: value_of(pair.btf.prog, name) for name in names}
    assert found == {name: value_of(pair.dwarf.prog, name) for name in names}
    assert sum(value is not None for value in found.values()) > 30
    for name in ("enum pageflags", "enum zone_type", "enum migratetype", "enum node_states", "enum wb_stat_item"):
        for enumerator in pair.dwarf.prog.type(name).enumerators or ():
            assert value_of(pair.btf.prog, enumerator.name) == enumerator.value, enumerator.name


def variable(prog: Program, name: str) -> tuple[int | None, int | None] | None:
    try:
        found = prog.variable(name)
    except LookupError:
        return None
    size = None if found.type_.kind == TypeKind.ARRAY and not found.type_.length else sizeof(found)
    return found.address_, size


# The kernel has an array there, whose length neither BTF nor VMCOREINFO give; or DWARF has none, but only the symbol.
NO_LENGTH = {name for name, type_ in GLOBALS.items() if isinstance(type_, str) and type_.endswith("[]")} | {
    "stack_pools"
}


def test_variables(pair: Pair) -> None:
    """Of the table, and those that our sources ask for: there or not there, at the same address, of the same size."""
    asked = in_sources(r"\bprog\[\"(\w+)\"\]") + in_sources(r"_(?:value|variable)\(prog, \"(\w+)\"")
    assert "mem_section" in asked
    found = 0
    for name in sorted({*GLOBALS, *asked} - {"VMCOREINFO"}):
        btf, dwarf = variable(pair.btf.prog, name), variable(pair.dwarf.prog, name)
        if name in NO_LENGTH and btf and dwarf:
            assert btf[0] == dwarf[0], name
        elif name != "empty_zero_page":  # assembly until it was written in C
            assert btf == dwarf, name
        found += btf is not None
    assert found > 80


def test_per_cpu_variables(pair: Pair) -> None:
    checked = 0
    for name in (
        "runqueues",
        "cpu_fbatches",
        "vm_event_states",
        "boot_pageset",
        "__irq_regs",
        "bh_lrus",
        "hrtimer_bases",
    ):
        btf, dwarf = variable(pair.btf.prog, name), variable(pair.dwarf.prog, name)
        assert btf == dwarf, name
        checked += btf is not None
    assert checked >= 6


def test_symbols(pair: Pair) -> None:
    asked = in_sources(r"has_symbol\((?:\w+, )?\"(\w+)\"")

    def addresses(prog: Program) -> dict[str, set[int]]:
        return {name: {symbol.address for symbol in prog.symbols(name)} for name in asked}

    assert len(asked) > 3
    assert addresses(pair.btf.prog) == addresses(pair.dwarf.prog)
    for name in ("filemap_migrate_folio", "pipefifo_fops", "socket_file_ops", "shmem_aops", "init_task"):
        for symbol in pair.dwarf.prog.symbols(name):
            assert pair.btf.prog.symbol(symbol.address).name == name
    for prog in (pair.btf.prog, pair.dwarf.prog):
        for address in (0, 0x100, 0x1F000):
            with pytest.raises(LookupError):
                prog.symbol(address)


def test_symbols_of_modules(pair: Pair) -> None:
    """Whose function it is that migrates a file system's folios is told by its name, be it in a module or not."""
    modules = load_module_kallsyms(pair.dwarf.prog)
    symbols = [s for s in modules(pair.dwarf.prog, None, None, False) if s.name.startswith("virtio_mem_") and s.size]
    assert len(symbols) > 5
    for target in (pair.btf, pair.dwarf):
        for symbol in symbols:
            found = target.prog.symbol(symbol.address + symbol.size // 2)
            assert (found.name, found.address) == (symbol.name, symbol.address)
        # No sign of the age of the kernel.
        assert target.prog.symbols("virtio_mem_probe") == []


def test_types_of_modules(pair: Pair) -> None:
    prog = pair.btf.prog
    virtio_mem = prog.type("struct virtio_mem")
    assert {"vdev", "addr", "region_size", "plugged_size"} <= {m.name for m in virtio_mem.members or ()}
    # It uses the kernel's.
    assert shape(virtio_mem.member("vdev").type.type) == shape(prog.type("struct virtio_device"))
    assert value_of(prog, "VIRTIO_MEM_SBM_MB_COUNT") is not None
    # And the device by which the lab plugs memory says what the lab plugged.
    (device,) = [d for d in virtio_devices(prog) if d.driver.name.string_() == b"virtio_mem"]
    found = Object(prog, virtio_mem, address=container_of(device, "struct virtio_device", "dev").priv.value_())
    assert int(found.addr) >> 12 == pair.dump.hotplug_pfns.start
    assert int(found.plugged_size) >> 12 == len(pair.dump.hotplug_pfns)


def virtio_devices(prog: Program) -> list[Object]:
    buses = list_for_each_entry("struct subsys_private", prog["bus_kset"].list.address_of_(), "subsys.kobj.entry")
    (bus,) = [private.bus for private in buses if private.bus.name.string_() == b"virtio"]
    return [device for device in bus_for_each_dev(bus) if device.driver]


def same(pair: Pair, function: object) -> object:
    """Check that a helper answers the same on both, and return what it does."""
    assert callable(function)
    btf, dwarf = function(pair.btf.prog), function(pair.dwarf.prog)
    assert btf == dwarf
    assert btf
    return btf


def test_helpers_memory_map(pair: Pair) -> None:
    names = (
        "PAGE_SHIFT",
        "SECTION_SIZE_BITS",
        "MAX_PHYSMEM_BITS",
        "SECTIONS_PER_ROOT",
        "NR_SECTION_ROOTS",
        "vmemmap",
        "jiffies",
    )
    same(pair, lambda prog: [int(prog[name].value_()) for name in names])
    same(pair, lambda prog: [node.value_() for node in for_each_online_pgdat(prog)])
    same(pair, lambda prog: [str(decode_page_flags(page)) for page in islice(for_each_page(prog), 0, 3000, 7)])


def test_helpers_memory_blocks(pair: Pair) -> None:
    from drgn.helpers.linux.mm import for_each_memory_block

    blocks = same(pair, lambda prog: [(int(b.start_section_nr), int(b.state)) for b in for_each_memory_block(prog)])
    assert isinstance(blocks, list)
    assert len(blocks) >= 6


def test_helpers_processors(pair: Pair) -> None:
    assert same(pair, lambda prog: list(for_each_possible_cpu(prog)))
    assert same(pair, lambda prog: list(for_each_online_cpu(prog))) == [0, 1]
    same(pair, lambda prog: [per_cpu(prog["runqueues"], cpu).address_ for cpu in for_each_possible_cpu(prog)])
    same(pair, lambda prog: [int(per_cpu(prog["runqueues"], cpu).cpu) for cpu in for_each_possible_cpu(prog)])


def test_helpers_processes(pair: Pair) -> None:
    same(pair, lambda prog: [(int(task.pid), task.comm.string_()) for task in for_each_task(prog)])
    same(pair, lambda prog: cmdline(find_task(prog, 1)))
    same(pair, lambda prog: [(int(v.vm_start), int(v.vm_end)) for v in for_each_vma(find_task(prog, 1).mm)])
    same(pair, lambda prog: [(fd, d_path(file.f_path)) for fd, file in for_each_file(find_task(prog, 1))])
    same(pair, lambda prog: [mount.value_() for mount in for_each_mount(prog)])


def test_helpers_slab(pair: Pair) -> None:
    def usage(prog: Program) -> list[object]:
        result: list[object] = []
        for cache in for_each_slab_cache(prog):
            try:
                result.append((cache.name.string_(), int(cache.object_size), slab_cache_usage(cache)))
            except (LookupError, FaultError) as error:
                result.append((cache.name.string_(), str(error)))
        return result

    caches = same(pair, usage)
    assert isinstance(caches, list)
    assert len(caches) > 50


def test_helpers_modules(pair: Pair) -> None:
    names = same(pair, lambda prog: sorted(module.name.string_() for module in for_each_module(prog)))
    assert isinstance(names, list)
    assert b"virtio_mem" in names


def comparable(value: object) -> object:
    """Turn what an engine keeps into what can be compared across Programs."""
    if isinstance(value, numpy.ndarray):
        return value.tolist()
    if isinstance(value, dict):
        return {str(key): comparable(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [comparable(inner) for inner in value]
    if isinstance(value, Program):
        return "prog"
    if hasattr(value, "__dataclass_fields__"):
        return {name: comparable(getattr(value, name)) for name in value.__dataclass_fields__}
    return repr(value) if not re.search(r" at 0x", repr(value)) else type(value).__name__


def test_engine(pair: Pair) -> None:
    """Layout, traits, sections, zones (which check the zone bits), batches: all that is read once of a target."""
    btf, dwarf = Context.of(pair.btf.prog), Context.of(pair.dwarf.prog)
    for part in (
        "layout",
        "kernel",
        "sections",
        "zones",
        "pageblocks",
        "batches",
        "hstates",
        "zero_pfns",
        "huge_zero_pfns",
    ):
        assert comparable(getattr(btf, part)) == comparable(getattr(dwarf, part)), part


def test_mappings(pair: Pair) -> None:
    def kinds(prog: Program) -> object:
        context = Context.of(prog)
        spaces = sorted(
            {
                int(file.f_mapping.value_())
                for task in for_each_task(prog)
                for _, file in for_each_file(task)
                if file.f_mapping
            }
        )
        pointers = numpy.array(spaces, numpy.uint64)
        found = context.mappings.kinds_of(pointers, numpy.ones(len(pointers), bool))
        return [comparable(context.mappings.kinds[int(kind)]) for kind in found]

    same(pair, kinds)


def test_report(pair: Pair) -> None:
    """Folio by folio the same, but for the line that names the source of the types."""

    def report(*symbols: str) -> list[str]:
        command = [
            sys.executable,
            "-m",
            "drgn_thp",
            "report",
            "-c",
            str(pair.dump.vmcore),
            *symbols,
            "--format",
            "ndjson",
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode in (0, 1), done.stderr
        return done.stdout.splitlines()

    btf, dwarf = report("--no-default-symbols"), report("-s", str(pair.dump.vmlinux))
    assert len(dwarf) > 1000
    assert btf[:-1] == dwarf[:-1]
    assert "BTF in the dump" in btf[-1]
    assert pair.dump.vmlinux.name in dwarf[-1]


def test_btf_of_another_kernel(pair: Pair, tmp_path: Path) -> None:
    for other in WITH_BTF:
        if other.name == pair.dump.kernel:
            continue
        prog = open_target(TargetSpec(core=str(ensure_dump(other).vmcore), default_symbols="none")).prog
        start, stop = prog.symbol("__start_BTF").address, prog.symbol("__stop_BTF").address
        (tmp_path / other.name).write_bytes(prog.read(start, stop - start))
        with pytest.raises(TargetError, match="of another kernel"):
            open_target(TargetSpec(core=str(pair.dump.vmcore), btf=str(tmp_path / other.name)))
        with pytest.raises(TargetError, match="belongs to another kernel"):
            open_target(TargetSpec(core=str(pair.dump.vmcore), symbols=(str(ensure_dump(other).vmlinux),)))


def test_compressed(pair: Pair, tmp_path: Path) -> None:
    with (tmp_path / "vmcore.gz").open("wb") as file:
        subprocess.run(["gzip", "-1", "-c", pair.dump.vmcore], stdout=file, check=True)
    target = open_target(TargetSpec(core=str(tmp_path / "vmcore.gz"), default_symbols="none"))
    assert [n.value_() for n in for_each_online_pgdat(target.prog)] == [
        n.value_() for n in for_each_online_pgdat(pair.btf.prog)
    ]


def test_old_kernel_needs_vmlinux() -> None:
    dump = ensure_dump(kernel("5.10"))
    with pytest.raises(TargetError, match=r"Linux 5\.10.* needs its vmlinux .*, named with -s: kernels before 6.0"):
        open_target(TargetSpec(core=str(dump.vmcore), default_symbols="none"))
    target = open_target(TargetSpec(core=str(dump.vmcore), symbols=(str(dump.vmlinux),)))
    assert target.has_unwinder
    assert target.release == dump.release


def test_directory_of_symbols() -> None:
    dump = ensure_dump(kernel("5.10"))
    target = open_target(TargetSpec(core=str(dump.vmcore), symbols=(str(dump.vmlinux.parent),)))
    assert target.types_source == f"DWARF of {dump.vmlinux}"


def test_dwarf_where_the_build_is_not_known(tmp_path: Path) -> None:
    """Kernels before v5.9 do not give their build ID: then VMCOREINFO must confirm the types."""
    dump = ensure_dump(kernel("5.10"))
    prog = open_target(TargetSpec(core=str(dump.vmcore), symbols=(str(dump.vmlinux),))).prog
    lines = prog["VMCOREINFO"].string_().decode().splitlines()
    note = tmp_path / "vmcoreinfo"
    note.write_text("\n".join(line for line in lines if not line.startswith("BUILD-ID")) + "\n")

    def open_with(vmlinux: Path) -> Target:
        return open_target(TargetSpec(core=str(dump.vmcore), vmcoreinfo=str(note), symbols=(str(vmlinux),)))

    assert open_with(dump.vmlinux).prog.type("struct page").size == 64
    with pytest.raises(TargetError, match="does not fit"):
        open_with(ensure_dump(kernel("6.1")).vmlinux)


def test_core_that_is_cut_off(tmp_path: Path) -> None:
    """Node 1's memory is missing: the kernel itself is not in there, so all that describes it can still be read."""
    dump = ensure_dump(kernel("6.12"))
    copy = tmp_path / "vmcore"
    subprocess.run(["cp", "--sparse=always", dump.vmcore, copy], check=True)
    os.truncate(copy, dump.vmcore.stat().st_size * 6 // 10)
    target = open_target(TargetSpec(core=str(copy), default_symbols="none"))
    assert any("is cut off" in note for note in target.notes)
    assert len(list(for_each_online_pgdat(target.prog))) == 2
    with pytest.raises(FaultError):
        target.prog.read((dump.hotplug_pfns.stop - 1) << 12, 4096, True)
    os.truncate(copy, 1 << 20)
    with pytest.raises(TargetError, match=r"own symbols cannot be read.*is cut off"):
        open_target(TargetSpec(core=str(copy), default_symbols="none"))


@pytest.mark.skipif(not hasattr(Program, "set_qemu_qmp"), reason="this drgn has no set_qemu_qmp()")
def test_running_guest(monkeypatch: pytest.MonkeyPatch) -> None:
    """No dump and no debug information: a guest that runs, over the emulator's monitor, which serves but one of us."""
    files = kernels.fetch(kernel("6.12"))
    image = initramfs.build(files, workload.build("lab"))

    def refused_until_ready(guest: Guest) -> None:
        deadline = time.monotonic() + 60
        while not guest.drgn_socket.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        # Before it has left its VMCOREINFO.
        with pytest.raises(TargetError, match="no Linux kernel recognised"):
            open_target(TargetSpec(qemu=str(guest.drgn_socket), default_symbols="none"))
        gc.collect()  # hangs up
        wait_until_ready(guest)

    with booted(lambda: Guest(files.vmlinuz, image), refused_until_ready) as guest:
        target = open_target(TargetSpec(qemu=str(guest.drgn_socket), default_symbols="none"))
        assert target.types_source == "BTF in the guest's memory"
        assert target.release == files.release
        assert find_task(target.prog, 1).comm.string_() == b"init"
        assert len(Context.of(target.prog).zones) >= 2
        monkeypatch.setattr(qmp, "GREETING_SECONDS", 0.5)
        with pytest.raises(TargetError, match="is another connected"):
            open_target(TargetSpec(qemu=str(guest.drgn_socket)))
        prog = open_target(TargetSpec(qemu=str(guest.agent_socket.parent / "qmp"), symbols=(str(files.vmlinux),))).prog
        assert find_task(prog, 1).comm.string_() == b"init"
