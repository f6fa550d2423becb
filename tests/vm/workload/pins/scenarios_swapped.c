// SPDX-License-Identifier: LGPL-2.1-or-later
// Folios that are in the swap cache, and held besides.
#include "pins.h"

#define TRIES 50

// Pages out, and says whether the folio is still in the swap cache: see the lab's scenarios of swap.
static int page_out(void *region, size_t size, uint64_t pfn)
{
	drain(); // Pages that are not on the LRU yet are passed over.
	check(madvise(region, size, MADV_PAGEOUT) == 0, "madvise(MADV_PAGEOUT)");
	return pfn_of(region) == 0 && (kpageflags(pfn) & KPF_SWAPCACHE);
}

static void wait_for_writeback(uint64_t pfn)
{
	for (int i = 0; i < 1000 && (kpageflags(pfn) & KPF_WRITEBACK); i++)
		usleep(1000);
}

static void swapped_base_held(void)
{
	char *region = base_pages(2);
	page_out(region, 2 * PAGE, pfn_of(region));
	// Only read: a write would give the slot back.
	touch(region, 2 * PAGE);
	hold(region);
	for (int i = 0; i < 2; i++) {
		wait_for_writeback(pfn_of(region + i * PAGE));
		expect_settled(pfn_of(region + i * PAGE), KPF_LRU | KPF_ANON | KPF_SWAPCACHE, KPF_WRITEBACK,
			       "not in the swap cache");
		mark("anon", region, i, i == 0, i == 0 ? "" : "neighbour");
	}
}

static void swapped_thp_held(void)
{
	for (int tries = 0; tries < TRIES; tries++) {
		char *region = thp();
		uint64_t head = pfn_of(region);
		if (page_out(region, THP, head) && (kpageflags(head) & KPF_THP)) {
			wait_for_writeback(head);
			// Kernels up to 6.1 map the first page and copy the second.
			touch(region, 2 * PAGE);
			check(pfn_of(region) == head, "the THP was not found in the swap cache");
			hold(region);
			expect_settled(head, KPF_LRU | KPF_ANON | KPF_THP | KPF_SWAPCACHE, KPF_WRITEBACK,
				       "not in the swap cache");
			mark_folio("anon-thp", region, head, 512, 1, "page 0; two pages read in");
			return;
		}
		munmap(region, THP);
	}
	fail("the THP was always gone from the swap cache, or split");
}

// Reclaim takes a page of tmpfs out of its file only if nobody but the page cache has a reference. So none that is held
// comes here.
static void swapped_tmpfs(void)
{
	for (int tries = 0; tries < TRIES; tries++) {
		int fd = memfd_create("swapped", 0);
		check(fd >= 0 && ftruncate(fd, PAGE) == 0, "memfd");
		char *region = map_file(fd, 1);
		fill(region, PAGE);
		uint64_t pfn = pfn_of(region);
		if (page_out(region, PAGE, pfn)) {
			wait_for_writeback(pfn);
			expect_settled(pfn, KPF_LRU | KPF_SWAPCACHE | KPF_SWAPBACKED, KPF_ANON | KPF_WRITEBACK,
				       "not in the swap cache");
			mark_pfn("shmem", pfn, 0, 0, "slot only");
			return;
		}
		munmap(region, PAGE);
		close(fd);
	}
	fail("the page was always gone from the swap cache");
}

// The same, and held: it stays in its file.
static void tmpfs_held_paged_out(void)
{
	char *region = map_file(file_of("/tmpfs", 1), 1);
	uint64_t pfn = pfn_of(region);
	hold(region);
	page_out(region, PAGE, pfn);
	touch(region, PAGE);
	check(pfn_of(region) == pfn, "the page was taken although it is held");
	expect_settled(pfn, KPF_LRU | KPF_SWAPBACKED, KPF_ANON | KPF_SWAPCACHE, "not a page of tmpfs");
	mark("shmem", region, 0, 1, "reclaim did not take it");
}

const struct scenario scenarios_swapped[] = {
	{"swapped_base_held", swapped_base_held},
	{"swapped_thp_held", swapped_thp_held},
	{"swapped_tmpfs", swapped_tmpfs},
	{"tmpfs_held_paged_out", tmpfs_held_paged_out},
	{0},
};
