// SPDX-License-Identifier: LGPL-2.1-or-later
// What very many processes have in common: merged pages, and the pages of zeros.
#include "../expect.h"

#define USE_ZERO_PAGE "/sys/kernel/mm/transparent_hugepage/use_zero_page"
#define SHARERS 20

static char *mergeable(void)
{
	char *region = aligned_region(PAGE, THP);
	memset(region, 's', PAGE);
	check(madvise(region, PAGE, MADV_MERGEABLE) == 0, "madvise(MADV_MERGEABLE)");
	return region;
}

static void wait_for_merge(char *one, uint64_t (*other)(void *), void *argument)
{
	for (int tries = 0; tries < 6000; tries++, usleep(5000))
		if (pfn_of(one) == other(argument))
			return;
	fail("the pages were not merged");
}

static uint64_t parents_page(void *region)
{
	return pfn_of_pid(getppid(), (uintptr_t)region);
}

static uint64_t own_page(void *region)
{
	return pfn_of(region);
}

// Each has merged a page of its own, so that no two are related by fork().
static void merge_in_child(void *region)
{
	char *mine = mergeable();
	wait_for_merge(mine, parents_page, region);
	mark("ksm", mine, 0, 0, "child");
}

static void ksm_many(void)
{
	char *one = mergeable(), *two = mergeable();
	write_file("/sys/kernel/mm/ksm/sleep_millisecs", "5");
	write_file("/sys/kernel/mm/ksm/pages_to_scan", "1000");
	check(write_file("/sys/kernel/mm/ksm/run", "1") == 0, "ksmd does not run");
	wait_for_merge(one, own_page, two);
	// Inherited, these would be two more mappings in each child.
	check(madvise(one, PAGE, MADV_DONTFORK) == 0 && madvise(two, PAGE, MADV_DONTFORK) == 0, "madvise(MADV_DONTFORK)");
	for (int i = 0; i < SHARERS; i++)
		in_child(merge_in_child, one);
	write_file("/sys/kernel/mm/ksm/run", "0");
	expect(pfn_of(one), KPF_KSM, 0, "not merged");
	expect_mappings(pfn_of(one), SHARERS + 2, "a merged page");
	mark("ksm", one, 0, 0, "");
	mark("ksm", two, 0, 0, "");
}

static void zero_page(void)
{
	char *region = aligned_region(2 * PAGE, THP);
	touch(region, 2 * PAGE);
	expect(pfn_of(region), KPF_ZERO_PAGE, KPF_THP, "not the zero page");
	check(pfn_of(region) == pfn_of(region + PAGE), "there are two zero pages");
	mark("zero", region, 0, 0, "");
}

static void mark_zeros(void *region)
{
	mark_folio("zero-thp", region, pfn_of(region), 512, 0, "child");
}

static void zero_huge(void)
{
	write_file(USE_ZERO_PAGE, "1");
	char *region = aligned_region(THP, THP);
	check(madvise(region, THP, MADV_HUGEPAGE) == 0, "madvise(MADV_HUGEPAGE)");
	// Reading only: the first write would put an ordinary THP there.
	touch(region, THP);
	write_file(USE_ZERO_PAGE, "0");
	expect(pfn_of(region), KPF_ZERO_PAGE | KPF_THP, 0, "not the huge page of zeros");
	in_child(mark_zeros, region);
	mark_folio("zero-thp", region, pfn_of(region), 512, 0, "parent");
}

const struct scenario scenarios_shared[] = {
	{"ksm_many", ksm_many},
	{"zero_page", zero_page},
	{"zero_huge", zero_huge},
	{0},
};
