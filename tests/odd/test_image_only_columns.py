# SPDX-License-Identifier: LGPL-2.1-or-later
"""Kernels without a debug package: every flag and count of every page, against the guest's own /proc files."""

from __future__ import annotations

import pytest

from drgn_thp.context import Context
from drgn_thp.target import TargetSpec, open_target
from tests.engine.kpageflags import Pages
from tests.engine.opened import Opened
from tests.engine.test_columns import (  # noqa: F401  (tests of every kernel, run on these as well)
    test_every_folio_is_a_row,
    test_flags_match_kpageflags,
    test_heads_and_orders_match_drgn,
    test_mapcounts_match_kpagecount,
    test_mapcounts_match_page_tables,
    test_zones_and_nodes_match_their_ranges,
)
from tests.vm.lab import Dump, ensure_dump
from tests.vm.matrix import IMAGE_ONLY

pytestmark = pytest.mark.vm


class OpenedByBtf(Opened):
    """A dump without its debug package."""

    def __init__(self, dump: Dump) -> None:
        self.dump = dump
        major, minor = dump.kernel.split(".")
        self.version = (int(major), int(minor))
        target = open_target(TargetSpec(core=str(dump.vmcore), default_symbols="none"))
        assert target.types_source == "BTF in the dump"
        self.prog = target.prog
        self.context = Context.of(self.prog)


@pytest.fixture(scope="module", params=IMAGE_ONLY, ids=lambda entry: entry.name)
def opened(request: pytest.FixtureRequest) -> OpenedByBtf:
    """Each of these kernels. A version that has left the mirror fails; it is never skipped."""
    dump = ensure_dump(request.param)
    assert not dump.vmlinux.exists(), "a debug package would take away the point"
    return OpenedByBtf(dump)


@pytest.fixture(scope="module")
def pages(opened: OpenedByBtf) -> Pages:
    """Every struct page of the dump."""
    return Pages(opened)
