// SPDX-License-Identifier: LGPL-2.1-or-later
// A guest in which much goes on, some pages are held for ever, and many for a moment.
#ifndef CHURN_H
#define CHURN_H

#include "../lab.h"

// Which the emulator provides: each request takes a good part of a second.
#define SLOW_DISK "/dev/vda"
// Made ready by the emulator's side. Not a file in the guest: pages of ramfs are refused for what they are, and would be
// most of what is listed.
#define SWAP_DISK "/dev/vdb"
// With a Python that looks from inside.
#define PYTHON_DISK "/dev/vdc"

// As check(): pid 1 does not look after these processes.
void must(int ok, const char *what);
unsigned long roll(unsigned long limit);
// Runs a function in a process of its own, which does not return.
int begin(void (*run)(int number), int number);

// slow.c: what is held from since on.
#define HOLD_PAGES 512
// As long as a report takes to look again five times, at the least.
#define SLOW_MS 2000

struct hold {
	long since;
	int pages;
	uint64_t frames[HOLD_PAGES];
};

long now_ms(void);
void note_frames(struct hold *hold, void *start, int pages);
// After it has been let go: prints it, if it was held for long.
void tell_slow(const struct hold *hold, const char *what);
void tell_time_for_ever(int number);

// holds.c: pages that are held from now on, each printed as HELD.
void hold_for_ever(void);
// passing.c: processes that hold pages for a fraction of a second, never the same within seconds.
void hold_for_moments(void);
// changes.c: processes that fork, fault huge pages, swap, and offline and online memory blocks.
void change_for_ever(void);

#endif
