# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Slim cores: an ELF vmcore with only the pages that the analysis reads, small enough to attach to a bug report.

What the analysis reads is not listed anywhere: it runs, and what it reads is written down.
"""

from .making import Made, make_slim

__all__ = ("Made", "make_slim")
