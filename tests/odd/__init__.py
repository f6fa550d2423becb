# SPDX-License-Identifier: LGPL-2.1-or-later
"""Dumps as users have them: filtered, compressed, cut off, with holes, and without debugging information."""
