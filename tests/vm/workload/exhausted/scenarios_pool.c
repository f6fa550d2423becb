// SPDX-License-Identifier: LGPL-2.1-or-later
// All of the movable node is huge pages, but for a rest in which not one more fits: to move one, or to make a new one
// in place of a free one, there is nothing to be had on the node.
#include "../expect.h"

#define NODE "/sys/devices/system/node/node1/"

static char *huge_pages(unsigned long count, int flags)
{
	char *region = mmap(NULL, count * THP, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
	check(region != MAP_FAILED, "mmap(MAP_HUGETLB)");
	return region;
}

static void pool_used(void)
{
	// Little is kept back, so that it is us who leave nothing.
	write_file("/proc/sys/vm/watermark_boost_factor", "0");
	check(write_file("/proc/sys/vm/min_free_kbytes", "1024") == 0, "min_free_kbytes");
	check(write_file("/proc/sys/vm/nr_overcommit_hugepages", "0") == 0, "nr_overcommit_hugepages");
	// As we are bound to the node, the last of it would be the end of us, too.
	unsigned long count = number_in(NODE "meminfo", "MemFree:") / (THP / 1024) - 6;
	resize_pool(POOL("1"), count);
	check(count > 240, "the pool does not fill the node");
	char *region = huge_pages(count - 1, MAP_PRIVATE);
	for (unsigned long i = 0; i < count - 1; i++)
		region[i * THP] = 'h';
	// Some of each memory block.
	for (unsigned long i = 0; i < count - 1; i += 16) {
		char *page = region + i * THP;
		expect(pfn_of(page), KPF_HUGE | KPF_COMPOUND_HEAD, 0, "no huge page");
		mark("hugetlb", page, 0, 0, "used");
		mark("hugetlb", page, 511, 0, "used");
	}
}

static uint64_t first_free_huge_page(void)
{
	static char text[16384];
	char *rest = text;
	check(read_file("/proc/iomem", text, sizeof(text)) == 0, "/proc/iomem");
	for (char *line; (line = strsep(&rest, "\n"));) {
		unsigned long start, end;
		if (!strstr(line, "(virtio_mem)") || sscanf(line, "%lx-%lx", &start, &end) != 2)
			continue;
		for (uint64_t pfn = start / PAGE; pfn < end / PAGE; pfn += THP / PAGE)
			if ((kpageflags(pfn) & KPF_HUGE) && !kpagecount(pfn))
				return pfn;
	}
	return 0;
}

// The only one that is free is promised to somebody: nobody else may have it, either.
static void pool_reserved(void)
{
	huge_pages(1, MAP_SHARED);
	check(number_in("/proc/meminfo", "HugePages_Free:") == 1, "HugePages_Free");
	check(number_in("/proc/meminfo", "HugePages_Rsvd:") == 1, "HugePages_Rsvd");
	uint64_t pfn = first_free_huge_page();
	check(pfn != 0, "no free huge page was found");
	expect(pfn, KPF_HUGE | KPF_COMPOUND_HEAD, 0, "no huge page");
	mark_pfn("hugetlb", pfn, 0, 0, "free, and reserved");
	mark_pfn("hugetlb", pfn + 511, 511, 0, "free, and reserved");
}

// The last: takes what is left of the node, page by page, until less than one huge page remains.
static void pool_rest(void)
{
	const unsigned long leave = 1800;
	const int most = 32 << 20;
	char *region = aligned_region(most, THP);
	check(madvise(region, most, MADV_NOHUGEPAGE) == 0, "madvise(MADV_NOHUGEPAGE)");
	int used = 0;
	for (; used < most; used += PAGE) {
		// Otherwise each CPU may be more than a hundred pages behind.
		write_file("/proc/sys/vm/stat_refresh", "1");
		if (number_in(NODE "meminfo", "MemFree:") < leave)
			break;
		fill(region + used, PAGE);
		check(mlock(region + used, PAGE) == 0, "mlock");
	}
	drain();
	check(used > 0 && used < most, "the node has too little or too much left");
	check(number_in(NODE "meminfo", "MemFree:") < THP / 1024, "there is room for one more");
	mark("anon", region, 0, 0, "rest of the node");
	mark("anon", region, used / (int)PAGE - 1, 0, "rest of the node");
}

const struct scenario scenarios_pool[] = {
	{"pool_used", pool_used}, {"pool_reserved", pool_reserved}, {"pool_rest", pool_rest}, {0},
};
