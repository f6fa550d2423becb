// SPDX-License-Identifier: LGPL-2.1-or-later
// More of each kind than a memory block has, so that there are blocks with little else in them: none of the kernel's.
#include "../expect.h"

#define MANY (192UL << 20)
// Marked is one page of so many.
#define SAMPLE 1024

static void settle(void)
{
	bind_to_node(BOOT_NODE);
	char zone[32] = "";
	read_file("/sys/devices/system/memory/memory32/valid_zones", zone, sizeof(zone));
	check(strstr(zone, "Movable") != NULL, "hot-plugged memory is for the kernel");
}

static void boot_base(void)
{
	settle();
	char *region = base_pages(MANY / PAGE);
	for (size_t i = 0; i < MANY / PAGE; i += SAMPLE)
		mark("anon", region, i, 0, "one of many");
	for (size_t i = 1; i < MANY / PAGE; i += 8 * SAMPLE) {
		hold(region + i * PAGE);
		mark("anon", region, i, 1, "held");
	}
}

static void boot_thps(void)
{
	settle();
	for (size_t i = 0; i < MANY / THP; i++) {
		char *region = thp();
		if (i % 16 == 0)
			mark_folio("anon-thp", region, pfn_of(region), 512, 0, "one of many");
	}
}

// These come from the other node's pool, or are made there: of movable memory.
static void boot_hugetlb(void)
{
	settle();
	resize_pool(POOL("0"), MANY / THP);
	char *region = mmap(NULL, MANY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
	check(region != MAP_FAILED, "mmap(MAP_HUGETLB)");
	for (size_t i = 0; i < MANY / THP; i++) {
		char *page = region + i * THP;
		fill(page, PAGE);
		if (i % 16 == 0)
			mark_folio("hugetlb", page, pfn_of(page), 512, 0, "one of many");
	}
}

const struct scenario scenarios_boot[] = {
	{"boot_base", boot_base},
	{"boot_thps", boot_thps},
	{"boot_hugetlb", boot_hugetlb},
	{0},
};
