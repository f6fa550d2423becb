# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What the kernel does when it is asked, held against what drgn_thp says of the dump of that very moment.

answers   what a kernel may do with a folio
questions each way of asking, from a guest that was rewound
said      what drgn_thp says
judge     whether the two agree
run       all questions of a scene; a table of them all
accuracy  docs/accuracy.md
"""
