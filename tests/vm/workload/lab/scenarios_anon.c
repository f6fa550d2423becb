// SPDX-License-Identifier: LGPL-2.1-or-later
// Anonymous memory: base pages and THPs, in the ways that page tables can map them.
#include "../lab.h"


static void base(void)
{
	void *region = base_pages(4);
	for (int i = 0; i < 4; i++)
		mark("anon", region, i, 0, "");
}

static void mark_base_in_child(void *region)
{
	mark("anon", region, 0, 0, "child");
}

static void base_forked(void)
{
	void *region = base_pages(1);
	mark("anon", region, 0, 0, "parent");
	in_child(mark_base_in_child, region);
}

static void thp_pmd(void)
{
	void *region = thp();
	mark_folio("anon-thp", region, pfn_of(region), 512, 0, "");
}

static void mark_thp_in_child(void *region)
{
	mark_folio("anon-thp", region, pfn_of(region), 512, 0, "child");
}

static void thp_forked(void)
{
	void *region = thp();
	mark_folio("anon-thp", region, pfn_of(region), 512, 0, "parent");
	in_child(mark_thp_in_child, region);
}

static void copy_page_7(void *region)
{
	uint64_t head = pfn_of(region);
	*((volatile char *)region + 7 * PAGE) = 'c';
	mark_folio("anon-thp", region, head, 512, 0, "child");
}

static void copy_page_0(void *region)
{
	uint64_t head = pfn_of(region);
	*(volatile char *)region = 'c';
	mark_folio("anon-thp", region, head, 512, 0, "child");
}

// The parent keeps its PMD, the child has copied one page and maps the other 511 one by one. Kernels before 6.1 compare
// all references with the mappings of one page here, and refuse.
static void thp_cow(void)
{
	void *region = thp();
	mark_folio("anon-thp", region, pfn_of(region), 512, 0, "parent");
	in_child(copy_page_7, region);
}

static void thp_cow_head(void)
{
	void *region = thp();
	mark_folio("anon-thp", region, pfn_of(region), 512, 0, "parent");
	in_child(copy_page_0, region);
}

// Protecting a part splits the PMD, and nothing puts it together again.
static void map_by_ptes(void *region)
{
	check(mprotect((char *)region + 7 * PAGE, PAGE, PROT_READ) == 0, "mprotect");
	check(mprotect((char *)region + 7 * PAGE, PAGE, PROT_READ | PROT_WRITE) == 0, "mprotect back");
}

static void thp_pte(void)
{
	void *region = thp();
	map_by_ptes(region);
	mark_folio("anon-thp", region, pfn_of(region), 512, 0, "");
}

static void thp_pte_3procs(void)
{
	void *region = thp();
	map_by_ptes(region);
	mark_folio("anon-thp", region, pfn_of(region), 512, 0, "parent");
	in_child(mark_thp_in_child, region);
	in_child(mark_thp_in_child, region);
}

static void unmap(void (*how)(char *), const char *note)
{
	char *region = thp();
	uint64_t head = pfn_of(region);
	how(region);
	mark_folio("anon-thp", region, head, 512, 0, note);
}

static void second_half(char *region)
{
	check(munmap(region + THP / 2, THP / 2) == 0, "munmap");
}

static void thp_partial(void)
{
	unmap(second_half, "second half unmapped");
}

static void first_page(char *region)
{
	check(madvise(region, PAGE, MADV_DONTNEED) == 0, "madvise(MADV_DONTNEED)");
}

static void thp_partial_head(void)
{
	unmap(first_page, "head unmapped");
}

static void mlocked_base(void)
{
	void *region = base_pages(2);
	check(mlock(region, 2 * PAGE) == 0, "mlock");
	mark("anon", region, 0, 0, "");
	mark("anon", region, 1, 0, "");
}

static void mlocked_thp(void)
{
	void *region = thp();
	check(mlock(region, THP) == 0, "mlock");
	mark_folio("anon-thp", region, pfn_of(region), 512, 0, "");
}

static void mthp(void)
{
	if (access("/sys/kernel/mm/transparent_hugepage/hugepages-64kB", F_OK))
		lacks("no 64 KiB folios");
	void *region = aligned_region(MTHP, THP);
	check(madvise(region, MTHP, MADV_HUGEPAGE) == 0, "madvise(MADV_HUGEPAGE)");
	fill(region, MTHP);
	check(pfn_of((char *)region + MTHP - PAGE) == pfn_of(region) + 15, "no 64 KiB folio was allocated");
	mark_folio("anon-mthp", region, pfn_of(region), 16, 0, "");
}

const struct scenario scenarios_anon[] = {
	{"base", base},
	{"base_forked", base_forked},
	{"thp_pmd", thp_pmd},
	{"thp_forked", thp_forked},
	{"thp_cow", thp_cow},
	{"thp_cow_head", thp_cow_head},
	{"thp_pte", thp_pte},
	{"thp_pte_3procs", thp_pte_3procs},
	{"thp_partial", thp_partial},
	{"thp_partial_head", thp_partial_head},
	{"mlocked_base", mlocked_base},
	{"mlocked_thp", mlocked_thp},
	{"mthp", mthp},
	{0},
};
