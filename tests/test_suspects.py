# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which of the folios that are asked about a page is of."""

from __future__ import annotations

import numpy

from drgn_thp.suspects import Suspects


def test_suspects() -> None:
    """Small and large folios, and runs of pages that begin before them or in them."""
    suspects = Suspects(numpy.array([1024, 7, 512, 7]), numpy.array([512, 1, 4, 1]))
    found = suspects.find(numpy.array([6, 7, 8, 511, 512, 515, 516, 1023, 1024, 1535, 1536, (1 << 30) + 7]))
    assert found.tolist() == [-1, 0, -1, -1, 1, 1, -1, -1, 2, 2, -1, -1]
    assert suspects.find(numpy.array([0, 512, 1024, 1536]), 512).tolist() == [0, 1, 2, -1]
    assert suspects.find(numpy.array([0, 2048]), 2048).tolist() == [2, -1]
    assert Suspects(numpy.array([], int), numpy.array([], int)).find(numpy.array([1])).tolist() == [-1]
    for pfn, number in ((6, -1), (7, 0), (8, -1), (515, 1), (516, -1), (1535, 2), (1536, -1)):
        assert suspects.number(pfn) == number
    assert suspects.pages.tolist() == [1, 4, 512]


def test_what_a_damaged_dump_says_may_overlap() -> None:
    """A page is then of the folio that begins last."""
    suspects = Suspects(numpy.array([16, 20]), numpy.array([16, 1]))
    assert suspects.find(numpy.array([16, 19, 20, 21])).tolist() == [0, 0, 1, -1]
