// SPDX-License-Identifier: LGPL-2.1-or-later
// References that the kernel itself loses: of a huge page of which a part is unmapped while the whole is being moved.
//
// 5.10 takes 511 references as it splits the entry that waits for the move (__split_huge_pmd_locked()), and nobody ever
// drops them. 6.1 takes none.
#include "holders.h"

#include <linux/mempolicy.h>

#define TURNS 50
#define SWAPPED (1ULL << 62)

static char *volatile region;
static volatile int turn, watched, moved, split;

// An entry that waits for a move looks as one of swap does.
static int is_being_moved(int pagemap)
{
	uint64_t entry = 0;
	check(pread(pagemap, &entry, sizeof(entry), (uintptr_t)region / PAGE * sizeof(entry)) == sizeof(entry), "pagemap");
	return (entry & SWAPPED) != 0;
}

static void *split_what_is_moved(void *unused)
{
	int pagemap = open("/proc/self/pagemap", O_RDONLY);
	check(pagemap >= 0, "pagemap");
	for (int mine = 1;; mine++) {
		while (turn < mine)
			usleep(100);
		watched = mine;
		while (moved < mine && !is_being_moved(pagemap))
			;
		madvise(region + PAGE, PAGE, MADV_DONTNEED);
		split = mine;
	}
	return unused;
}

// Moves a huge page once, and returns whether its memory stays in use though nobody has it.
static int move_once(uint64_t *pfn)
{
	int node = BOOT_NODE, status = -1, mine = turn + 1;
	region = thp();
	*pfn = pfn_of(region);
	void *page = region;
	turn = mine;
	while (watched < mine)
		usleep(100);
	check(syscall(SYS_move_pages, 0, 1UL, &page, &node, &status, MPOL_MF_MOVE) == 0 && status == node, "move_pages");
	moved = mine;
	while (split < mine)
		usleep(100);
	munmap(region, THP);
	drain();
	return (kpageflags(*pfn) & KPF_THP) != 0;
}

static void thp_lost(void)
{
	uint64_t pfn;
	start_thread(split_what_is_moved, NULL);
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
