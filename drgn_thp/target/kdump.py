# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Kdump-compressed cores: is all of the file there?

libkdumpfile maps the file into memory, and a table of pages that is cut off would end the process with SIGBUS.
"""

from __future__ import annotations

import os
import struct

MAGIC = b"KDUMP   "
# struct disk_dump_header: block_size, sub_hdr_size, bitmap_blocks, behind signature, version, utsname, time and status.
_SIZES_AT = 428
_DESCRIPTOR = "QIIQ"  # struct page_desc: offset, size, flags, page flags
_DESCRIPTORS = 1 << 15  # at a time
_PIECE = 1 << 20
_BITS = bytes(bin(i).count("1") for i in range(256))


class DamagedKdump(Exception):
    """Its header, bitmaps or table of pages are not all there."""


def missing_bytes(fd: int) -> int:
    """
    Return how many bytes are missing at the end of a core; 0 if none are, or if it is no kdump-compressed one.

    :raises DamagedKdump: if what is missing is not just pages
    """
    header = os.pread(fd, _SIZES_AT + 12, 0)
    if not header.startswith(MAGIC):
        return 0
    if len(header) < _SIZES_AT + 12:
        raise DamagedKdump
    size = os.fstat(fd).st_size
    for order in "<>":
        block, sub_header, bitmap = struct.unpack_from(order + "iiI", header, _SIZES_AT)
        if 512 <= block <= 1 << 20 and not block & block - 1 and 0 <= sub_header < 1 << 20:
            break
    else:
        raise DamagedKdump
    table = (1 + sub_header + bitmap) * block
    if table > size:
        raise DamagedKdump
    # The second bitmap, of two of equal size, is that of the pages which the core has.
    pages = _count_bits(fd, table - bitmap // 2 * block, table)
    descriptor = struct.Struct(order + _DESCRIPTOR)
    data = table + pages * descriptor.size
    if data > size:
        raise DamagedKdump
    # Pages lie in the file in the order of the table, but those of zeros, which share the first place.
    while pages:
        count = min(pages, _DESCRIPTORS)
        pages -= count
        piece = os.pread(fd, count * descriptor.size, table + pages * descriptor.size)
        end = max(offset + stored for offset, stored, _, _ in descriptor.iter_unpack(piece))
        if end > data + block:
            return max(int(end) - size, 0)
    return 0


def _count_bits(fd: int, start: int, end: int) -> int:
    count = 0
    while start < end:
        piece = os.pread(fd, min(_PIECE, end - start), start)
        if not piece:
            raise DamagedKdump
        count += sum(piece.translate(_BITS))
        start += len(piece)
    return count
