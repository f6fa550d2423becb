# SPDX-License-Identifier: LGPL-2.1-or-later
"""open_target() on small cores made by hand, and on what is none: right answers, or one clear line."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import struct
from pathlib import Path

import pytest
from drgn import FaultError, Program

from drgn_thp.errors import TargetError, UnknownLayout
from drgn_thp.target import Target, TargetSpec, kernelbtf, open_target, permission
from drgn_thp.target.btf import Btf
from drgn_thp.target.finders import Finders

from .minikernel import BASE, DATA_AT, MEM_SECTION_TABLE, PER_CPU_START, RELEASE, MiniKernel, make
from .mutants import mutate
from .writer import BtfWriter


@pytest.fixture
def core(tmp_path: Path) -> Path:
    return tmp_path / "vmcore"


def open_core(path: Path, **options: object) -> Target:
    return open_target(TargetSpec(core=str(path), **options))  # type: ignore[arg-type]


def test_types_from_the_dump(core: Path) -> None:
    target = open_core(MiniKernel().write(core))
    assert target.release == RELEASE
    assert target.types_source == "BTF in the dump"
    assert not target.has_unwinder
    assert any("stack traces" in note for note in target.notes)
    prog = target.prog
    assert prog.type("struct page").size == 64
    assert prog.type("unsigned long").size == 8
    assert prog.constant("PG_lru") == 5
    assert prog.type("enum zone_type").enumerators is not None


def test_variables(core: Path) -> None:
    prog = open_core(MiniKernel().write(core)).prog
    assert prog["max_pfn"] == 0x40000
    assert prog["lru_disable_count"].counter == 0
    assert prog["mem_section"].value_() == MEM_SECTION_TABLE
    assert prog["mem_section"].type_.type_name() == "struct mem_section **"
    # Its length is in no BTF, but the width of the node field of page->flags depends on it.
    assert prog["node_data"].type_.length == 16
    assert prog["vmemmap_populate"].address_ == BASE + 0x100


def test_per_cpu_variables_lie_where_their_section_says(core: Path) -> None:
    """On 6.1 a static variable has the name of a per-CPU one: the symbol of that name may be either."""
    kernel = MiniKernel()
    kernel.twice["cpu_fbatches"] = DATA_AT + 0x80
    assert open_core(kernel.write(core)).prog["cpu_fbatches"].address_ == PER_CPU_START + 0x240


def test_what_the_kernel_lacks_is_a_lookup_error(core: Path) -> None:
    """Helpers tell kernels apart by it."""
    prog = open_core(MiniKernel().write(core)).prog
    for name in ("nonesuch", "huge_zero_folio"):
        with pytest.raises(LookupError):
            prog[name]
    for name in ("struct nonesuch", "nonesuch_t", "enum page", "struct page_"):
        with pytest.raises(LookupError):
            prog.type(name)


def test_two_symbols_of_one_name_are_no_variable(core: Path) -> None:
    prog = open_core(MiniKernel().write(core)).prog
    with pytest.raises(LookupError, match="2 symbols are called sections_per_block"):
        prog["sections_per_block"]


def test_variable_that_its_type_does_not_fit(core: Path) -> None:
    kernel = MiniKernel()
    kernel.symbols["jiffies_64"] = DATA_AT + 0x226  # two bytes later comes another
    kernel.symbols["panic_cpu"] = DATA_AT + 0x228
    kernel.writer.typedef("u64", kernel.writer.int_("long long unsigned int", 8))
    prog = open_core(kernel.write(core)).prog
    assert prog["panic_cpu"].address_ == DATA_AT + 0x228
    with pytest.raises(LookupError):
        prog["jiffies_64"]


@pytest.mark.parametrize("sized_at_boot", [False, True])
def test_type_by_witness(core: Path, sized_at_boot: bool) -> None:
    """Both types of stack_pools could be read; only a witness tells which is right."""
    kernel = MiniKernel()
    kernel.symbols["stack_pools"] = DATA_AT + 0x230
    if sized_at_boot:
        kernel.symbols["stack_max_pools"] = DATA_AT + 0x238
    type_ = open_core(kernel.write(core)).prog["stack_pools"].type_
    assert type_.type_name() == ("void **" if sized_at_boot else "void *[]")


def test_array_of_sections_is_not_taken_for_a_pointer(core: Path) -> None:
    kernel = MiniKernel()
    kernel.lines["SYMBOL(mem_section)"] = f"{DATA_AT + 0x10:x}"
    with pytest.raises(LookupError):
        open_core(kernel.write(core)).prog["mem_section"]


def test_null_is_no_per_cpu_variable(core: Path) -> None:
    """Until v6.15 per-CPU symbols were numbered from 0 on, so that small numbers were named after them."""
    kernel = MiniKernel()
    kernel.symbols.update({"__per_cpu_start": 0, "__per_cpu_end": 0x1000, "runqueues": 0x100, "cpu_fbatches": 0x240})
    prog = open_core(kernel.write(core)).prog
    assert prog["runqueues"].address_ == 0x100
    assert prog.symbol("runqueues").address == 0x100
    with pytest.raises(LookupError):
        prog.symbol(0x100)
    assert prog.symbol(BASE + 0x80).name == "_stext"


def test_types_of_modules(core: Path) -> None:
    target = open_core(MiniKernel().with_module().write(core))
    prog = target.prog
    assert prog.type("struct virtio_mem").size == 24
    assert prog.type("struct virtio_mem").member("list").type.tag == "list_head"
    assert prog.constant("VIRTIO_MEM_LIMIT") == 7
    assert len(target.notes) == 1


def test_damaged_types_of_a_module_leave_those_of_the_kernel(core: Path) -> None:
    kernel = MiniKernel().with_module()
    ((address, memory),) = kernel.segments.items()
    kernel.segments[address] = memory[:0x100] + b"\0\0" + memory[0x102:]
    target = open_core(kernel.write(core))
    with pytest.raises(LookupError):
        target.prog.type("struct virtio_mem")
    assert target.prog.type("struct page").size == 64
    assert any("virtio_mem" in note and "cannot be had" in note for note in target.notes)


def test_endless_list_of_modules(core: Path) -> None:
    kernel = MiniKernel().with_module()
    ((address, memory),) = kernel.segments.items()
    kernel.segments[address] = struct.pack("<Q", address) + memory[8:]
    target = open_core(kernel.write(core))
    with pytest.raises(LookupError):
        target.prog.type("struct virtio_mem")
    assert any("cannot be had" in note for note in target.notes)


def test_btf_in_a_file(core: Path, tmp_path: Path) -> None:
    kernel = MiniKernel()
    (tmp_path / "btf").write_bytes(kernel.writer.data())
    kernel.btf = b"not this"
    kernel.symbols["__stop_BTF"] = kernel.symbols["__start_BTF"] = DATA_AT + 0x40
    target = open_core(kernel.write(core), btf=str(tmp_path / "btf"))
    assert target.types_source == f"BTF of {tmp_path / 'btf'}"
    assert target.prog.type("struct page").size == 64


def test_btf_in_an_elf_file(core: Path, tmp_path: Path) -> None:
    """Such as the vmlinux within a vmlinuz, stripped of its DWARF."""
    kernel = MiniKernel()
    names, btf = b"\0.shstrtab\0.BTF\0", kernel.writer.data()
    sections = b"".join(
        (
            bytes(64),
            struct.pack("<IIQQQQIIQQ", 1, 3, 0, 0, 256, len(names), 0, 0, 1, 0),
            struct.pack("<IIQQQQIIQQ", 11, 1, 0, 0, 512, len(btf), 0, 0, 1, 0),
        )
    )
    elf = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    elf += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0, 0, 64, 0, 64, 56, 0, 64, 3, 1)
    (tmp_path / "vmlinux").write_bytes(((elf + sections).ljust(256, b"\0") + names).ljust(512, b"\0") + btf)
    target = open_core(kernel.write(core), btf=str(tmp_path / "vmlinux"))
    assert target.prog.constant("PG_lru") == 5


def fails(message: str, spec: TargetSpec) -> None:
    with pytest.raises(TargetError, match=message) as caught:
        open_target(spec)
    assert "\n" not in str(caught.value)


def core_fails(message: str, path: Path, **options: object) -> None:
    fails(message, TargetSpec(core=str(path), **options))  # type: ignore[arg-type]


@pytest.mark.parametrize("line", ["SIZE(page)", "OFFSET(page._refcount)", "LENGTH(zone.free_area)", "NUMBER(PG_lru)"])
def test_btf_that_vmcoreinfo_contradicts(core: Path, line: str) -> None:
    core_fails(r"does not fit .* is 44 in VMCOREINFO", make(core, **{line: "44"}))


def test_btf_of_another_build(core: Path) -> None:
    """Same sources and options, other compiler: the structs are the same, the order of per-CPU variables is not."""
    kernel = MiniKernel()
    kernel.symbols["runqueues"], kernel.symbols["cpu_fbatches"] = PER_CPU_START + 0x140, PER_CPU_START + 0x100
    core_fails("of another kernel .* per-CPU variables lie elsewhere", kernel.write(core))


def test_nothing_confirms_the_btf(core: Path) -> None:
    kernel = MiniKernel()
    kernel.lines = {
        k: v for k, v in kernel.lines.items() if not k.startswith(("SIZE", "OFFSET", "LENGTH", "NUMBER(PG"))
    }
    core_fails("nothing in VMCOREINFO confirms it", kernel.write(core))


def test_damaged_btf(core: Path) -> None:
    kernel = MiniKernel()
    kernel.btf = kernel.writer.data()[:-9]
    core_fails("is damaged or not understood", kernel.write(core))


def test_btf_that_is_damaged_where_it_is_not_looked_at_first(core: Path) -> None:
    kernel = MiniKernel()
    kernel.writer.struct("hstate", 8, [("a", 7777, 0)])
    prog = open_core(kernel.write(core)).prog
    with pytest.raises(UnknownLayout, match="there is no type 7777"):
        prog.type("struct hstate")


def test_no_btf_in_the_kernel(core: Path) -> None:
    kernel = MiniKernel()
    kernel.symbols["__stop_BTF"] = kernel.symbols["__start_BTF"] = DATA_AT + 0x40
    core_fails("needs its vmlinux.*named with -s", kernel.write(core))


def test_btf_that_was_filtered_out(core: Path) -> None:
    kernel = MiniKernel()
    kernel.symbols.update({"__start_BTF": DATA_AT + 0x10000, "__stop_BTF": DATA_AT + 0x11000})
    core_fails("BTF in the dump cannot be read", kernel.write(core))


def test_btf_is_not_wanted(core: Path) -> None:
    core_fails("no vmlinux of Linux 6.9.0-mini", MiniKernel().write(core), no_btf=True)


def test_old_kernel(core: Path) -> None:
    kernel = MiniKernel()
    kernel.write(core)
    data = core.read_bytes().replace(b"SYMBOL(kallsyms_names)", b"SYMBOL(kallsyms_NAMES)")
    core.write_bytes(data)
    core_fails("needs its vmlinux with debugging symbols, named with -s: kernels before 6.0", core)


def test_damaged_kallsyms(core: Path) -> None:
    kernel = MiniKernel()
    kernel.write(core)
    data = core.read_bytes()
    number = struct.pack("<Q", len(kernel.symbols) + len(kernel.twice)) + b"\7D_stext"
    assert number in data
    core.write_bytes(data.replace(number, b"\xff" * len(number)))
    core_fails("mini needs its vmlinux", core)


def test_core_that_is_cut_off(core: Path) -> None:
    """It opens if what is needed is there, with a note, and says so otherwise."""
    target = open_core(MiniKernel().write(core, cut_off=100))
    assert any("is cut off: its last 100 bytes are missing" in note for note in target.notes)
    core_fails("own symbols cannot be read.*is cut off", MiniKernel().write(core, cut_off=5000))


def test_reading_what_was_cut_off(core: Path) -> None:
    kernel = MiniKernel()
    target = open_core(kernel.write(core, cut_off=100))
    with pytest.raises(FaultError):
        target.prog.read(int(kernel.lines["SYMBOL(kallsyms_token_index)"], 16), 512 + 4096)


def test_headers_that_are_cut_off(core: Path) -> None:
    data = MiniKernel().write(core).read_bytes()
    for size in (1, 10, 63, 64, 100, 200, 300):
        core.write_bytes(data[:size])
        core_fails(str(core), core)


def test_process(core: Path) -> None:
    kernel = MiniKernel()
    kernel.write(core)
    core.write_bytes(core.read_bytes().replace(b"VMCOREINFO\0\0", b"CORE\0\0\0\0\0\0\0\0"))
    core_fails("no core of a Linux kernel", core)


def test_vmcoreinfo_from_a_file(core: Path, tmp_path: Path) -> None:
    kernel = MiniKernel()
    kernel.write(core)
    core.write_bytes(core.read_bytes().replace(b"VMCOREINFO\0\0", b"CORE\0\0\0\0\0\0\0\0"))
    (tmp_path / "note").write_text("".join(f"{key}={value}\n" for key, value in kernel.lines.items()))
    assert open_core(core, vmcoreinfo=str(tmp_path / "note")).release == RELEASE
    core_fails("No such file", core, vmcoreinfo=str(tmp_path / "nothing"))


def test_what_is_no_core(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_text("not a core\n" * 100)
    (tmp_path / "kdump").write_bytes(b"KDUMP   " + bytes(8192))
    (tmp_path / "flat").write_bytes(b"makedumpfile\0\0\0\0" + bytes(8192))
    (tmp_path / "program").write_bytes(b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack("<HH", 3, 62) + bytes(64))
    core_fails("No such file or directory", tmp_path / "nothing")
    core_fails("Is a directory", tmp_path)
    core_fails("not an ELF core file", tmp_path / "empty")
    core_fails("not an ELF core file", tmp_path / "text")
    core_fails("no core dump", tmp_path / "program")
    core_fails(str(tmp_path), tmp_path / "kdump")
    core_fails(str(tmp_path), tmp_path / "flat")


@pytest.fixture
def nobody() -> object:
    """Do without root's right to read all, if we have it."""
    uid = os.geteuid()
    if uid == 0:
        os.seteuid(65534)
    yield None
    os.seteuid(uid)


def test_no_permission(core: Path, nobody: object) -> None:
    if os.geteuid() == 65534:
        os.seteuid(0)
        MiniKernel().write(core).chmod(0)
        for directory in (core.parent, *core.parent.parents):
            if directory != directory.parent and directory.owner() == "root" and not directory.stat().st_mode & 1:
                directory.chmod(directory.stat().st_mode | 0o111)
        os.seteuid(65534)
    else:
        MiniKernel().write(core).chmod(0)
    core_fails("Permission denied", core)


RAWIO = "CapEff:\t0000000000020000\n"
NO_RAWIO = "CapEff:\t000001fffffdffff\n"


@pytest.mark.parametrize(
    ("number", "status", "lockdown", "said"),
    [
        (errno.ENOENT, None, None, "/proc is not mounted here"),
        (errno.EACCES, None, None, "only root may open it"),
        (errno.EPERM, NO_RAWIO, None, "CAP_SYS_RAWIO is missing; in a container"),
        (errno.EPERM, RAWIO, "none integrity [confidentiality]\n", "the kernel is locked down ("),
        (
            errno.EPERM,
            RAWIO,
            "none [integrity] confidentiality\n",
            "the kernel is locked down for confidentiality, or a",
        ),
        (errno.EPERM, RAWIO, None, "the kernel is locked down for confidentiality, or a"),
        (errno.EPERM, "nonsense", None, "CAP_SYS_RAWIO is missing, or the kernel"),
        (errno.EIO, None, None, "Input/output error"),
    ],
)
def test_live_kernel_that_may_not_be_read(
    number: int, status: str | None, lockdown: str | None, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What is missing is named."""

    class Denied:
        def __init__(self, *arguments: object, **options: object) -> None:
            pass

        def set_kernel(self) -> None:
            raise OSError(number, os.strerror(number), "/proc/kcore")

    for name, text in (("STATUS", status), ("LOCKDOWN", lockdown)):
        file = tmp_path / name
        if text is not None:
            file.write_text(text)
        monkeypatch.setattr(permission, name, str(file))
    monkeypatch.setattr("drgn_thp.target.opening.Program", Denied)
    with pytest.raises(TargetError) as raised:
        open_target(TargetSpec(kernel=True))
    assert str(raised.value).startswith(f"/proc/kcore: {os.strerror(number)}")
    assert said in str(raised.value)


@pytest.mark.parametrize(
    "spec",
    [TargetSpec(), TargetSpec(core="vmcore", kernel=True), TargetSpec(core="vmcore", qemu="socket")],
)
def test_one_target(spec: TargetSpec) -> None:
    fails("name one target", spec)


def test_types_of_one_source(core: Path) -> None:
    MiniKernel().write(core)
    core_fails("do not mix", core, btf="file", symbols=("vmlinux",))
    core_fails("do not mix", core, btf="file", no_btf=True)


def test_symbols_of_another_kernel(core: Path, tmp_path: Path) -> None:
    MiniKernel().write(core)
    note = struct.pack("<III", 4, 20, 3) + b"GNU\0" + bytes(range(20))
    elf = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    elf += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    elf += struct.pack("<IIQQQQQQ", 4, 0, 120, 0, 0, len(note), len(note), 4)
    (tmp_path / "vmlinux").write_bytes(elf + note)
    core_fails("belongs to another kernel than .* 000102", core, symbols=(str(tmp_path / "vmlinux"),))
    (tmp_path / "vmlinux").write_bytes(elf[:56] + bytes(64))
    core_fails("has no build ID", core, symbols=(str(tmp_path / "vmlinux"),))


def test_stripped_vmlinux(core: Path, tmp_path: Path) -> None:
    kernel = MiniKernel()
    kernel.write(core)
    note = struct.pack("<III", 4, 20, 3) + b"GNU\0" + bytes.fromhex(kernel.lines["BUILD-ID"])
    elf = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    elf += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    elf += struct.pack("<IIQQQQQQ", 4, 0, 120, 0, 0, len(note), len(note), 4)
    (tmp_path / "vmlinux").write_bytes(elf + note)
    core_fails("stripped", core, symbols=(str(tmp_path / "vmlinux"),))


def test_symbols_that_are_none(core: Path, tmp_path: Path) -> None:
    MiniKernel().write(core)
    (tmp_path / "text").write_text("text")
    (tmp_path / "directory").mkdir()
    core_fails("not a 64-bit ELF file", core, symbols=(str(tmp_path / "text"),))
    core_fails("No such file", core, symbols=(str(tmp_path / "nothing"),))
    core_fails("neither vmlinux nor modules", core, symbols=(str(tmp_path / "directory"),))


def test_odd_options(core: Path) -> None:
    MiniKernel().write(core)
    core_fails("no such architecture", core, architecture="vax")
    core_fails("no such way to find debugging symbols", core, try_symbols_by=("luck",))
    core_fails("no such way to find modules", core, try_symbols_by=("kmod=luck",))
    assert open_core(core, try_symbols_by=("kmod=walk", "reuse"), no_symbols_by=("standard", "procfs", "kmod"))


def test_btf_file_is_none(core: Path, tmp_path: Path) -> None:
    MiniKernel().write(core)
    other = BtfWriter()
    other.struct("page", 64, [("lru", other.int_("long unsigned int", 8), 0)])
    (tmp_path / "other").write_bytes(other.data())
    core_fails("No such file", core, btf=str(tmp_path / "nothing"))
    core_fails("magic", core, btf=str(core.parent / "text") if (core.parent / "text").write_text("text") else "")
    core_fails("without a section .BTF", core, btf=str(core))
    core_fails("OFFSET.page.lru. is 8 in VMCOREINFO, but 0", core, btf=str(tmp_path / "other"))


def test_log_of_drgn_stays_off_the_terminal(core: Path, capfd: pytest.CaptureFixture[str]) -> None:
    open_core(MiniKernel().write(core))
    assert capfd.readouterr() == ("", "")


def test_no_server_is_asked(core: Path) -> None:
    """debuginfod holds up whoever is not connected; it is there for those who ask for it."""
    MiniKernel().write(core)
    assert "debuginfod" not in open_core(core).prog.enabled_debug_info_finders()
    prog = open_core(core, try_symbols_by=("debuginfod",), no_default_kernel_directories=True).prog
    assert "debuginfod" in prog.enabled_debug_info_finders()
    assert prog.debug_info_options.kernel_directories == ()


def test_drgn_that_reads_btf_itself(core: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No release does yet. Its types are preferred to ours, and checked like ours."""

    def load(prog: Program) -> bool:
        Finders(prog, Btf(MiniKernel().writer.data()), print).register()
        return True

    monkeypatch.setattr(kernelbtf, "_load_by_drgn", load)
    target = open_core(MiniKernel().write(core))
    assert target.types_source == "BTF in the kernel's memory, read by drgn"
    assert target.prog["max_pfn"] == 0x40000
    core_fails("does not fit", make(core, **{"SIZE(page)": "44"}))


def test_mutants(core: Path) -> None:
    """Whatever a core holds: it opens or says in one line why not; and what it is asked then ends in bounds, too."""
    data = MiniKernel().with_module().write(core).read_bytes()
    rng = random.Random(30_000)
    opened = 0
    messages: list[str] = []
    for _ in range(600):
        core.write_bytes(mutate(data, rng))
        try:
            prog = open_core(core).prog
        except TargetError as error:
            messages.append(str(error))
            continue
        opened += 1
        for name in ("page", "folio", "zone", "rq", "virtio_mem"):
            with contextlib.suppress(LookupError, UnknownLayout):
                prog.type(f"struct {name}")
        for name in (
            "mem_section",
            "node_data",
            "max_pfn",
            "runqueues",
            "PG_lru",
            "VIRTIO_MEM_LIMIT",
            "vmemmap_populate",
        ):
            with contextlib.suppress(LookupError, UnknownLayout, FaultError):
                prog[name].type_.type_name()
        for address in (0, BASE + 0x80, DATA_AT + 0x105):
            with contextlib.suppress(LookupError):
                prog.symbol(address)
    assert not [message for message in messages if "\n" in message]
    assert opened > 180
    assert len(messages) > 180
