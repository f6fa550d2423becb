# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Makes a core of a kernel of a few KiB: VMCOREINFO, kallsyms, BTF, some variables, and one module with BTF of its own.

Segments have virtual addresses, so it needs no page tables.
"""

from __future__ import annotations

import struct
from pathlib import Path

from .writer import BtfWriter, small_kernel

BASE = 0xFFFFFFFF81000000
PER_CPU_START = BASE + 0x100000
BTF_AT = BASE + 0x200000
DATA_AT = BASE + 0x300000
MODULE_AT = BASE + 0x400000
TABLES_AT = BASE + 0x500000
RELEASE = "6.9.0-mini"
MEM_SECTION_TABLE = 0xFFFF888000123000


class MiniKernel:
    """
    Parts may be changed before :meth:`write`.

    :ivar lines: VMCOREINFO
    :ivar symbols: Address by name; those in ``twice`` are there once more, elsewhere
    :ivar segments: Contents by virtual address
    """

    def __init__(self) -> None:
        self.writer = small_kernel()
        self.btf = b""
        self.lines = {
            "OSRELEASE": RELEASE,
            "BUILD-ID": "00112233445566778899aabbccddeeff00112233",
            "PAGESIZE": "4096",
            "SYMBOL(swapper_pg_dir)": f"{DATA_AT:x}",
            "SYMBOL(_stext)": f"{BASE:x}",
            "SYMBOL(mem_section)": f"{MEM_SECTION_TABLE:x}",
            "SIZE(page)": "64",
            "OFFSET(page.flags)": "0",
            "OFFSET(page.lru)": "8",
            "OFFSET(page._refcount)": "52",
            "SIZE(list_head)": "16",
            "SIZE(atomic_t)": "4",
            "LENGTH(zone.free_area)": "11",
            "LENGTH(node_data)": "16",
            "NUMBER(PG_lru)": "5",
            "NUMBER(PG_nonesuch)": "77",
            "NUMBER(SECTION_SIZE_BITS)": "27",
            "NUMBER(MAX_PHYSMEM_BITS)": "46",
            "NUMBER(pgtable_l5_enabled)": "0",
            "NUMBER(phys_base)": "0",
            "KERNELOFFSET": "0",
        }
        self.symbols = {
            "_stext": BASE,
            "vmemmap_populate": BASE + 0x100,
            "__per_cpu_start": PER_CPU_START,
            "runqueues": PER_CPU_START + 0x100,
            "cpu_fbatches": PER_CPU_START + 0x240,
            "mem_section": DATA_AT + 0x10,
            "max_pfn": DATA_AT + 0x18,
            "node_data": DATA_AT + 0x100,
            "lru_disable_count": DATA_AT + 0x200,
            "btf_modules": DATA_AT + 0x210,
            "sections_per_block": DATA_AT + 0x220,
            "the_end": DATA_AT + 0x230,
        }
        self.twice = {"sections_per_block": DATA_AT + 0x224}
        self.data = bytearray(0x300)
        struct.pack_into("<Q", self.data, 0x10, MEM_SECTION_TABLE)
        struct.pack_into("<Q", self.data, 0x18, 0x40000)
        struct.pack_into("<QQ", self.data, 0x210, DATA_AT + 0x210, DATA_AT + 0x210)
        self.segments: dict[int, bytes] = {}

    def with_module(self) -> MiniKernel:
        """Add a module that has a type of its own, and the kernel's types by which it is found."""
        b = self.writer
        (link,) = (n for n, t in enumerate(b.types, 1) if t[:4] == struct.pack("<I", b.string("list_head")))
        u32, ulong, char = b.int_("u32", 4), b.int_("u64", 8), b.int_("signed char", 1, 1)
        btf = b.struct("btf", 32, [("data", b.ptr(0), 0), ("data_size", u32, 64), ("name", b.array(char, 16), 128)])
        b.struct("btf_module", 32, [("list", link, 0), ("module", ulong, 128), ("btf", b.ptr(btf), 192)])
        module = BtfWriter(base=b)
        module.struct("virtio_mem", 24, [("list", link, 0), ("id", u32, 128)])
        module.enum("", [("VIRTIO_MEM_LIMIT", 7)])
        data = module.data()
        entry, about, at = MODULE_AT, MODULE_AT + 0x40, MODULE_AT + 0x100
        head = DATA_AT + 0x210
        struct.pack_into("<QQ", self.data, 0x210, entry, entry)
        memory = bytearray(0x100 + len(data))
        struct.pack_into("<QQQQ", memory, 0, head, head, 0, about)
        struct.pack_into("<QII16s", memory, 0x40, at, len(data), 0, b"virtio_mem")
        memory[0x100:] = data
        self.segments[MODULE_AT] = bytes(memory)
        return self

    def write(self, path: Path, cut_off: int = 0) -> Path:
        """
        Write the core.

        :param cut_off: Leave out so many bytes at the end
        """
        btf = self.btf or self.writer.data()
        self.symbols.setdefault("__start_BTF", BTF_AT)
        self.symbols.setdefault("__stop_BTF", BTF_AT + len(btf))
        segments = {BTF_AT: btf, DATA_AT: bytes(self.data), **self.segments, TABLES_AT: self._kallsyms()}
        text = "".join(f"{key}={value}\n" for key, value in self.lines.items()).encode()
        note = struct.pack("<III", 11, len(text), 0) + b"VMCOREINFO\0\0" + text + bytes(-len(text) % 4)
        offset = 64 + 56 * (1 + len(segments))
        headers = [struct.pack("<IIQQQQQQ", 4, 0, offset, 0, 0, len(note), len(note), 4)]
        offset += len(note)
        for address, data in segments.items():
            headers.append(struct.pack("<IIQQQQQQ", 1, 7, offset, address, 0, len(data), len(data), 0))
            offset += len(data)
        elf = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
        elf += struct.pack("<HHIQQQIHHHHHH", 4, 62, 1, 0, 64, 0, 0, 64, 56, len(headers), 0, 0, 0)
        data = elf + b"".join(headers) + note + b"".join(segments.values())
        path.write_bytes(data[: len(data) - cut_off])
        return path

    def _kallsyms(self) -> bytes:
        """Return the tables of scripts/kallsyms.c, with one letter for each token; say in VMCOREINFO where they are."""
        symbols = sorted([*self.symbols.items(), *self.twice.items()], key=lambda symbol: symbol[1])
        names = b"".join(bytes((len(name) + 1,)) + b"D" + name.encode() for name, _ in symbols)
        tokens = b"".join(bytes((c or 1, 0)) for c in range(256))
        offsets = [address - BASE for _, address in symbols]
        if symbols[0][1] < BASE:  # CONFIG_KALLSYMS_ABSOLUTE_PERCPU
            offsets = [address if address < BASE else BASE - 1 - address for _, address in symbols]
        tables = {
            "offsets": struct.pack(f"<{len(symbols)}i", *offsets),
            "relative_base": struct.pack("<Q", BASE),
            "num_syms": struct.pack("<I", len(symbols)),
            "names": names,
            "token_table": tokens,
            "token_index": struct.pack("<256H", *range(0, 512, 2)),
        }
        memory = b""
        for name, table in tables.items():
            memory += bytes(-len(memory) % 8)
            self.lines[f"SYMBOL(kallsyms_{name})"] = f"{TABLES_AT + len(memory):x}"
            memory += table
        return memory + bytes(4096)


def make(path: Path, **lines: str) -> Path:
    """Write a kernel as it is, but for these lines of VMCOREINFO."""
    kernel = MiniKernel()
    kernel.lines.update(lines)
    return kernel.write(path)
