# SPDX-License-Identifier: LGPL-2.1-or-later
"""The engine against real dumps: every column, every count and every verdict has a reader here that is not ours."""
