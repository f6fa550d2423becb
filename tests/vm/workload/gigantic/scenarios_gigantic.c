// SPDX-License-Identifier: LGPL-2.1-or-later
// Huge pages of 1 GiB, which no movable memory may hold, and some of 2 MiB whose struct pages were mostly given back.
#include "../expect.h"

#define POOL(size) "/sys/devices/system/node/node1/hugepages/hugepages-" size "kB/nr_hugepages"
#define GIGANTIC POOL("1048576")
#define HUGE POOL("2048")
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

static void mark_ends(char *region, int pages, int held, const char *note)
{
	mark("hugetlb", region, 0, held, note);
	mark("hugetlb", region, pages - 1, held, note);
}

static void gigantic_used(void)
{
	check(write_file(GIGANTIC, "2") == 0 && number_in(GIGANTIC, "") == 2, "no two huge pages of 1 GiB");
	char *region = huge_page(1UL << GIB_SHIFT, GIB_SHIFT << MAP_HUGE_SHIFT);
	mark_ends(region, 1 << (GIB_SHIFT - 12), 0, "the other is free");
}

static void need_hvo(void)
{
	char text[8] = "";
	read_file("/proc/sys/vm/hugetlb_optimize_vmemmap", text, sizeof(text));
	if (text[0] != '1')
		lacks("the struct pages of huge pages stay");
}

static void hvo_used(void)
{
	need_hvo();
	check(write_file(HUGE, "4") == 0 && number_in(HUGE, "") == 4, "nr_hugepages");
	char *region = huge_page(THP, 0);
	mark_ends(region, 512, 0, "two are free");
}

static void hvo_held(void)
{
	need_hvo();
	char *region = huge_page(THP, 0);
	hold(region + 3 * PAGE);
	mark_ends(region, 512, 1, "page 3");
}

const struct scenario scenarios_gigantic[] = {
	{"gigantic_used", gigantic_used},
	{"hvo_used", hvo_used},
	{"hvo_held", hvo_held},
	{0},
};
