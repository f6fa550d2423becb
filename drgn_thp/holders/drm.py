# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Graphics: buffers of drivers that take their memory from shmem (GEM), be they open, mapped or exported as DMA buffers.

Those are the drivers that leave it to the helper for shmem. There is no list of pages that all drivers would have.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy

from ..folios import Column
from .dmabuf import BUFFER as DMA_BUFFER
from .dmabuf import exported
from .ground import Ground
from .model import Claim, Owner, Walker

FILE, OPERATIONS, CLIENT = "struct file", "struct file_operations", "struct drm_file"
OBJECT, BUFFER = "struct drm_gem_object", "struct drm_gem_shmem_object"
# By module: the functions of buffers that the helper makes, or that are made as it does.
FUNCTIONS = (("drm_gem_shmem_funcs", "drm_shmem_helper"), ("virtio_gpu_shmem_funcs", "virtio_gpu"))
MAX_PAGES = 1 << 22
_WORD = 8


def walk(ground: Ground) -> Iterator[Claim]:
    """Yield the pages of each buffer, which several files may have."""
    functions = known_functions(ground)
    shared: dict[int, list[int]] = {}
    for file, entry in _objects(ground):
        shared.setdefault(entry, []).append(file)
    for entry, files in shared.items():
        with ground.part(f"buffer {entry:#x} of a graphics driver"):
            if ground.pointer(OBJECT, entry, "funcs") not in functions:
                continue
            own = entry - ground.offset(BUFFER, "base")
            array, count = ground.pointer(BUFFER, own, "pages"), ground.pointer(OBJECT, entry, "size")
            count >>= ground.context.kernel.page_shift
            if not array:
                continue
            pages = ground.page_array(array, count, MAX_PAGES)
            files = list(dict.fromkeys(files))
            what = f"graphics buffer, {count << ground.context.kernel.page_shift >> 10} KiB"
            owner = Owner.by_files(what, files)
            yield Claim(owner, pages, gets=_weights(ground, pages))


def _objects(ground: Ground) -> Iterator[tuple[int, int]]:
    """Yield each file with each ``struct drm_gem_object`` that it has."""
    release, at = ground.symbol("drm_release", "drm"), ground.offset(OPERATIONS, "release")
    operations = []
    for address in ground.files.operations:
        with ground.part(f"operations {address:#x}"):
            if ground.word(address + at) == release:
                operations.append(address)
    for file, client in ground.files.having(operations):
        with ground.part(f"client of a graphics driver {client:#x}"):
            for _, entry in ground.xarray(client + ground.offset(CLIENT, "object_idr.idr_rt")):
                yield file, entry
    for file, buffer in exported(ground, prime(ground)):
        with ground.part(f"DMA buffer {buffer:#x}"):
            yield file, ground.pointer(DMA_BUFFER, buffer, "priv")


def prime(ground: Ground) -> int | None:
    """Return the operations of DMA buffers that graphics drivers have in common."""
    return ground.symbol("drm_gem_prime_dmabuf_ops", "drm")


def known_functions(ground: Ground) -> set[int]:
    """Return the functions of buffers of which it is known where their pages are."""
    found = (ground.symbol(name, module) for name, module in FUNCTIONS)
    return {address for address in found if address is not None}


def _weights(ground: Ground, pages: Column) -> Column:
    """Return how many references there are for each page: one, but only one for each large folio in newer kernels."""
    gets = numpy.ones(len(pages), numpy.int64)
    # drm_gem_put_pages() has a list of pages to be put in v6.1, and of folios in v6.12.
    if ground.has("struct pagevec") or not len(pages):
        return gets
    memmap = ground.context.memmap
    for run in numpy.split(numpy.arange(len(pages)), numpy.flatnonzero(numpy.diff(pages) != 1) + 1):
        ground.step()
        if len(run) > 1:
            first = int(pages[run[0]])
            chunk = memmap.read(first, len(run))
            heads = numpy.zeros(len(run), dtype=bool)
            heads[memmap.live(chunk).rows] = True
            heads[0] = True
            gets[run] = heads
    return gets


WALKERS = (
    Walker(
        kind="drm",
        summary="a page of a buffer of a graphics driver, taken from shmem",
        frees="close the buffer, and all that imported it, or end the process",
        walk=walk,
        types=(CLIENT, OBJECT, BUFFER),
        symbols=("drm_gem_shmem_funcs",),
        module="drm_shmem_helper",
    ),
)
