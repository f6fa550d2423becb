// SPDX-License-Identifier: LGPL-2.1-or-later
// The machine may be so busy that a moment is long: what was really held for long is told, with its page frames.
//
// From when to when, in milliseconds of CLOCK_MONOTONIC, which is printed every second as CLOCK: that nothing is excused
// by what was held at another time.
#include "churn.h"

#include <time.h>

long now_ms(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

void note_frames(struct hold *hold, void *start, int pages)
{
	int pagemap = open("/proc/self/pagemap", O_RDONLY);
	ssize_t size = pages * sizeof(*hold->frames);
	must(pagemap >= 0 && pages <= HOLD_PAGES, "pagemap");
	must(pread(pagemap, hold->frames, size, (uintptr_t)start / PAGE * sizeof(*hold->frames)) == size, "pagemap");
	close(pagemap);
	hold->pages = pages;
}

void tell_slow(const struct hold *hold, const char *what)
{
	static char line[HOLD_PAGES * 12 + 64];
	long now = now_ms();
	if (now - hold->since < SLOW_MS)
		return;
	int length = sprintf(line, "SLOW %s %ld %ld", what, hold->since, now);
	for (int i = 0; i < hold->pages; i++)
		length += sprintf(line + length, " %lx", hold->frames[i] & ((1UL << 55) - 1));
	line[length++] = '\n';
	must(write(1, line, length) == length, "console");
}

void tell_time_for_ever(int number)
{
	for (;; number++) {
		dprintf(1, "CLOCK %ld\n", now_ms());
		sleep(1);
	}
}
