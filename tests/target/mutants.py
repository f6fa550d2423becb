# SPDX-License-Identifier: LGPL-2.1-or-later
"""Damages files: bits, bytes and words changed, swapped, cut out and put in."""

from __future__ import annotations

import random
import struct


def mutate(data: bytes, rng: random.Random) -> bytes:
    mutant = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        position = rng.randrange(len(mutant))
        word = position & ~3
        operation = rng.randrange(8)
        if operation == 0:
            mutant[position] ^= 1 << rng.randrange(8)
        elif operation == 1:
            mutant[position] = rng.randrange(256)
        elif operation == 2 and word + 4 <= len(mutant):
            mutant[word : word + 4] = struct.pack(
                "<I", rng.choice((0, 1, 0xFFFFFFFF, 0x7FFFFFFF, rng.randrange(2**32)))
            )
        elif operation == 3 and word + 4 <= len(mutant):
            mutant[word : word + 4] = struct.pack("<I", rng.randrange(100))
        elif operation == 4:  # words, numbers of types among them, change places
            other = rng.randrange(len(mutant)) & ~3
            if max(word, other) + 4 <= len(mutant):
                mutant[word : word + 4], mutant[other : other + 4] = mutant[other : other + 4], mutant[word : word + 4]
        elif operation == 5:
            del mutant[position : position + rng.choice((1, 4, 12))]
        elif operation == 6:
            mutant[position:position] = bytes(rng.choice((1, 4, 12)))
        else:
            del mutant[position:]
        if not mutant:
            mutant = bytearray(b"\0")
    return bytes(mutant)
