// SPDX-License-Identifier: LGPL-2.1-or-later
// Huge pages that have given most of their struct pages back. What nobody uses is found, and marked, when all scenarios
// are done.
#include "../expect.h"

static void fill_pool(const char *path)
{
	char text[8];
	if (read_file("/proc/sys/vm/hugetlb_optimize_vmemmap", text, sizeof(text)))
		lacks("huge pages keep their struct pages");
	check(text[0] == '1', "hugetlb_optimize_vmemmap");
	resize_pool(path, 6);
}

static void mark_huge(char *region)
{
	uint64_t head = pfn_of(region);
	check(head != 0, "a huge page is not mapped");
	expect(head, KPF_HUGE | KPF_COMPOUND_HEAD, KPF_THP, "no huge page");
	mark_folio("hugetlb", region, head, 512, 0, "");
}

static char *map_huge(size_t size)
{
	char *region = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
	check(region != MAP_FAILED, "mmap(MAP_HUGETLB)");
	fill(region, size);
	return region;
}

static void hugetlb_lean(void)
{
	fill_pool(POOL("1"));
	mark_huge(map_huge(THP));
}

static void hugetlb_lean_unmapped(void)
{
	fill_pool(POOL("1"));
	int fd = memfd_create(table->scenario, MFD_HUGETLB);
	check(fd >= 0 && ftruncate(fd, THP) == 0, "memfd_create(MFD_HUGETLB)");
	char *region = mmap(NULL, THP, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	check(region != MAP_FAILED, "mmap of a file of huge pages");
	fill(region, THP);
	uint64_t head = pfn_of(region);
	munmap(region, THP);
	expect(head, KPF_HUGE, 0, "an unmapped huge page");
	mark_folio("hugetlb", NULL, head, 512, 0, "");
}

// On a node that has memory of all kinds.
static void hugetlb_lean_boot(void)
{
	fill_pool(POOL("0"));
	bind_to_node(BOOT_NODE);
	mark_huge(map_huge(THP));
}

const struct scenario scenarios_hvo[] = {
	{"hugetlb_lean", hugetlb_lean},
	{"hugetlb_lean_unmapped", hugetlb_lean_unmapped},
	{"hugetlb_lean_boot", hugetlb_lean_boot},
	{0},
};
