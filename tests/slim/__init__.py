# SPDX-License-Identifier: LGPL-2.1-or-later
"""Slim cores of dumps that are none yet; the rest of their tests needs no lab: ``tests/test_slim.py``."""
