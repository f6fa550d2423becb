// SPDX-License-Identifier: LGPL-2.1-or-later
// Anonymous folios that are larger than a page and smaller than a PMD.
#include "../expect.h"

static char *mthp_of(int kib)
{
	char path[96];
	size_t size = kib * 1024UL;
	snprintf(path, sizeof(path), "/sys/kernel/mm/transparent_hugepage/hugepages-%dkB/enabled", kib);
	if (access(path, F_OK))
		lacks("no folios of that size");
	check(write_file(path, "madvise") == 0, path);
	// No larger folio fits.
	char *region = aligned_region(size, THP);
	check(madvise(region, size, MADV_HUGEPAGE) == 0, "madvise(MADV_HUGEPAGE)");
	fill(region, size);
	if (kib != 64)
		write_file(path, "never");
	uint64_t head = pfn_of(region);
	expect(head, KPF_THP | KPF_COMPOUND_HEAD, 0, "no large folio");
	check(pfn_of(region + size - PAGE) == head + size / PAGE - 1, "no folio of that size was allocated");
	expect(head + size / PAGE - 1, KPF_COMPOUND_TAIL, 0, "the last page is of another folio");
	return region;
}

// The second half is gone from the page table, and still a part of the folio.
static void partial(int kib)
{
	int pages = kib / 4;
	char *region = mthp_of(kib);
	uint64_t head = pfn_of(region);
	check(munmap(region + pages / 2 * PAGE, pages / 2 * PAGE) == 0, "munmap");
	expect(head + pages - 1, KPF_COMPOUND_TAIL, KPF_BUDDY, "the folio was split");
	mark("anon-mthp", region, 0, 0, "mapped half");
	mark("anon-mthp", region, pages / 2 - 1, 0, "mapped half");
	mark_pfn("anon-mthp", head + pages / 2, pages / 2, 0, "unmapped half");
	mark_pfn("anon-mthp", head + pages - 1, pages - 1, 0, "unmapped half");
}

static void partial_16k(void)
{
	partial(16);
}

static void partial_32k(void)
{
	partial(32);
}

static void partial_64k(void)
{
	partial(64);
}

static void partial_128k(void)
{
	partial(128);
}

static void partial_256k(void)
{
	partial(256);
}

static void partial_512k(void)
{
	partial(512);
}

static void partial_1m(void)
{
	partial(1024);
}

static void mark_mthp_in_child(void *region)
{
	mark_folio("anon-mthp", region, pfn_of(region), 16, 0, "child");
}

static void forked(void)
{
	char *region = mthp_of(64);
	in_child(mark_mthp_in_child, region);
	expect_mappings(pfn_of(region), 2, "a forked folio");
	mark_folio("anon-mthp", region, pfn_of(region), 16, 0, "parent");
}

static void copy_page_7(void *region)
{
	uint64_t head = pfn_of(region);
	*((volatile char *)region + 7 * PAGE) = 'c';
	check(pfn_of((char *)region + 7 * PAGE) != head + 7, "page 7 was not copied");
	mark_folio("anon-mthp", region, head, 16, 0, "child");
}

static void cow(void)
{
	char *region = mthp_of(64);
	in_child(copy_page_7, region);
	mark_folio("anon-mthp", region, pfn_of(region), 16, 0, "parent");
}

static void without(int page)
{
	char *region = mthp_of(64);
	uint64_t head = pfn_of(region);
	check(madvise(region + page * PAGE, PAGE, MADV_DONTNEED) == 0, "madvise(MADV_DONTNEED)");
	expect_mappings(head + page, 0, "the hole");
	expect(head + 15, KPF_COMPOUND_TAIL, 0, "the folio was split");
	mark_folio("anon-mthp", region, head, 16, 0, "hole");
}

static void hole(void)
{
	without(3);
}

static void hole_head(void)
{
	without(0);
}

const struct scenario scenarios_mthp[] = {
	{"mthp_partial_16k", partial_16k},
	{"mthp_partial_32k", partial_32k},
	{"mthp_partial_64k", partial_64k},
	{"mthp_partial_128k", partial_128k},
	{"mthp_partial_256k", partial_256k},
	{"mthp_partial_512k", partial_512k},
	{"mthp_partial_1m", partial_1m},
	{"mthp_forked", forked},
	{"mthp_cow", cow},
	{"mthp_hole", hole},
	{"mthp_hole_head", hole_head},
	{0},
};
