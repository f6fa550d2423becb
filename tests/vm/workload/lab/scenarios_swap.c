// SPDX-License-Identifier: LGPL-2.1-or-later
// The swap cache: folios with a slot in the swap area, which costs them one reference per page.
#include "../lab.h"

#define TRIES 50

// Pages out, and says whether the folio is still in the swap cache: writing to the swap area goes on in the background,
// and a folio under writeback is left in the cache. When writing was quicker it is gone, and has to be tried again.
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

static void swapcache_base(void)
{
	char *region = base_pages(4);
	page_out(region, 4 * PAGE, pfn_of(region));
	// Only read: a write would give the slot back.
	touch(region, 4 * PAGE);
	for (int i = 0; i < 4; i++) {
		check(kpageflags(pfn_of(region + i * PAGE)) & KPF_SWAPCACHE, "the page lost its slot when it was read in");
		wait_for_writeback(pfn_of(region + i * PAGE));
		mark("anon", region, i, 0, "read in, slot kept");
	}
}

static void read_and_mark(void *region)
{
	touch(region, PAGE);
	mark("anon", region, 0, 0, "read in, other process has the slot only");
}

static void swapcache_shared(void)
{
	char *region = base_pages(1);
	page_out(region, PAGE, pfn_of(region));
	in_child(read_and_mark, region);
}

static void swapcache_unmapped(void)
{
	for (int tries = 0; tries < TRIES; tries++) {
		char *region = base_pages(1);
		uint64_t pfn = pfn_of(region);
		if (page_out(region, PAGE, pfn)) {
			wait_for_writeback(pfn);
			mark_pfn("anon", pfn, 0, 0, "slot only");
			return;
		}
		munmap(region, PAGE);
	}
	fail("the page was always gone from the swap cache");
}

static char *thp_in_swap_cache(uint64_t *head)
{
	for (int tries = 0; tries < TRIES; tries++) {
		char *region = thp();
		*head = pfn_of(region);
		if (page_out(region, THP, *head) && (kpageflags(*head) & KPF_THP)) {
			wait_for_writeback(*head);
			return region;
		}
		munmap(region, THP);
	}
	fail("the THP was always gone from the swap cache, or split");
}

static void swapcache_thp(void)
{
	uint64_t head;
	char *region = thp_in_swap_cache(&head);
	// Kernels up to 6.1 map the first page and copy the second: they compare it with the index of a tail page.
	touch(region, 2 * PAGE);
	check(pfn_of(region) == head, "the THP was not found in the swap cache");
	mark_folio("anon-thp", region, head, 512, 0, "two pages read in");
}

static void swapcache_thp_unmapped(void)
{
	uint64_t head;
	thp_in_swap_cache(&head);
	mark_folio("anon-thp", NULL, head, 512, 0, "slots only");
}

const struct scenario scenarios_swap[] = {
	{"swapcache_base", swapcache_base},
	{"swapcache_shared", swapcache_shared},
	{"swapcache_unmapped", swapcache_unmapped},
	{"swapcache_thp", swapcache_thp},
	{"swapcache_thp_unmapped", swapcache_thp_unmapped},
	{0},
};
