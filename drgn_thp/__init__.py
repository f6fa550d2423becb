# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which folios would the Linux kernel refuse to migrate, by which of its own checks, and who holds them."""
