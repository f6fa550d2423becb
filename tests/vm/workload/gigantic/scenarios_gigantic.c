// SPDX-License-Identifier: LGPL-2.1-or-later
// Huge pages of 1 GiB, which no movable memory may hold: larger than a memory block.
#include "../expect.h"

#define GIGANTIC_POOL "/sys/devices/system/node/node1/hugepages/hugepages-1048576kB/nr_hugepages"
#define GIB_SHIFT 30

#ifndef MAP_HUGE_SHIFT
#define MAP_HUGE_SHIFT 26
#endif

static char *huge_page(size_t size, int flags)
{
	char *region = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | flags, -1, 0);
	check(region != MAP_FAILED, "mmap(MAP_HUGETLB)");
	region[0] = 'g';
	expect(pfn_of(region), KPF_HUGE | KPF_COMPOUND_HEAD, 0, "no huge page");
	return region;
}

static void gigantic_used(void)
{
	resize_pool(GIGANTIC_POOL, 2);
	char *region = huge_page(1UL << GIB_SHIFT, GIB_SHIFT << MAP_HUGE_SHIFT);
	mark("hugetlb", region, 0, 0, "the other is free");
	mark("hugetlb", region, (1 << (GIB_SHIFT - 12)) - 1, 0, "the other is free");
}

const struct scenario scenarios_gigantic[] = {
	{"gigantic_used", gigantic_used},
	{0},
};
