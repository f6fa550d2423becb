// SPDX-License-Identifier: LGPL-2.1-or-later
// References that the kernel itself loses: of a huge page of which a part is unmapped while the whole is being moved.
//
// 5.10 takes 511 references as it splits the entry that waits for the move (__split_huge_pmd_locked()), and nobody ever
// drops them. 6.1 takes none.
#include "holders.h"

#include <linux/mempolicy.h>
#include <pthread.h>

#define TURNS 50
#define SWAPPED (1ULL << 62)

static volatile int watched, moved;

// An entry that waits for a move looks as one of swap does.
static int is_being_moved(int pagemap, char *region)
{
	uint64_t entry = 0;
	check(pread(pagemap, &entry, sizeof(entry), (uintptr_t)region / PAGE * sizeof(entry)) == sizeof(entry), "pagemap");
	return (entry & SWAPPED) != 0;
}

static void *split_what_is_moved(void *region)
{
	int pagemap = open("/proc/self/pagemap", O_RDONLY);
	check(pagemap >= 0, "pagemap");
	watched = 1;
	while (!moved && !is_being_moved(pagemap, region))
		;
	madvise((char *)region + PAGE, PAGE, MADV_DONTNEED);
	close(pagemap);
	return NULL;
}

// Moves a huge page once, and returns whether its memory stays in use though nobody has it.
static int move_once(uint64_t *pfn)
{
	int node = BOOT_NODE, status = -1;
	void *region = thp();
	pthread_t splitter;
	*pfn = pfn_of(region);
	watched = moved = 0;
	check(pthread_create(&splitter, NULL, split_what_is_moved, region) == 0, "pthread_create");
	while (!watched)
		usleep(100);
	check(syscall(SYS_move_pages, 0, 1UL, &region, &node, &status, MPOL_MF_MOVE) == 0 && status == node, "move_pages");
	moved = 1;
	check(pthread_join(splitter, NULL) == 0, "pthread_join");
	munmap(region, THP);
	drain();
	return (kpageflags(*pfn) & KPF_THP) != 0;
}

static void thp_lost(void)
{
	uint64_t pfn;
	for (int tries = 0; tries < TURNS; tries++)
		if (move_once(&pfn)) {
			check(kpagecount(pfn) == 0, "it is mapped");
			held_by_nobody("lost", pfn, 511);
			mark_pfn("anon-thp", pfn, 0, 1, "lost");
			return;
		}
	lacks("no references are lost");
}

const struct scenario scenarios_lost[] = {
	{"thp_lost", thp_lost},
	{0},
};
