// SPDX-License-Identifier: LGPL-2.1-or-later
// What others would undo: in the batches of a CPU on which nothing happens any more.
#include "holders.h"

#include <sched.h>

static void batch(void)
{
	cpu_set_t second;
	char *pages = aligned_region(2 * PAGE, THP);
	CPU_ZERO(&second);
	CPU_SET(1, &second);
	check(sched_setaffinity(0, sizeof(second), &second) == 0, "sched_setaffinity");
	fill(pages, PAGE);
	drain();
	fill(pages + PAGE, PAGE);
	uint64_t pfn = pfn_of(pages + PAGE);
	check(!(kpageflags(pfn) & KPF_LRU), "the page is on the LRU already");
	held_by_nobody("batch", pfn, 1);
	mark("anon", pages, 1, 1, "batch");
}

const struct scenario scenarios_last[] = {
	{"batch", batch},
	{0},
};
