// SPDX-License-Identifier: LGPL-2.1-or-later
// A guest in which much goes on, some pages are held for ever, and many for a moment.
#ifndef CHURN_H
#define CHURN_H

#include "../lab.h"

// Which the emulator provides: each request takes a good part of a second.
#define SLOW_DISK "/dev/vda"

// As check(): pid 1 does not look after these processes.
void must(int ok, const char *what);
unsigned long roll(unsigned long limit);
// Runs a function in a process of its own, which does not return.
int begin(void (*run)(int number), int number);

// holds.c: pages that are held from now on, each printed as HELD.
void hold_for_ever(void);
// passing.c: processes that hold pages for a fraction of a second, never the same within seconds.
void hold_for_moments(void);
// changes.c: processes that fork, fault huge pages, swap, and offline and online memory blocks.
void change_for_ever(void);

#endif
