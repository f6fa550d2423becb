// SPDX-License-Identifier: LGPL-2.1-or-later
// THPs that are mapped, freed and locked in the odder ways.
#include "../expect.h"

static void lazily_free(char *region, size_t size)
{
	// The call leaves out what is not on the LRU yet, and works in batches.
	drain();
	check(madvise(region, size, MADV_FREE) == 0, "madvise(MADV_FREE)");
	drain();
}

static void thp_lazyfree(void)
{
	char *region = thp();
	lazily_free(region, THP);
	expect(pfn_of(region), KPF_THP | KPF_ANON, KPF_SWAPBACKED, "not lazily freed");
	mark_folio("anon-thp", region, pfn_of(region), 512, 0, "");
}

// Written to again, it is dirty, but goes on waiting among the pages that may be thrown away.
static void thp_lazyfree_dirty(void)
{
	char *region = thp();
	lazily_free(region, THP);
	region[7 * PAGE] = 'd';
	expect(pfn_of(region), KPF_THP | KPF_ANON, KPF_SWAPBACKED, "not lazily freed");
	mark_folio("anon-thp", region, pfn_of(region), 512, 0, "");
}

// Freeing a part splits the THP.
static void thp_lazyfree_part(void)
{
	char *region = thp();
	lazily_free(region, THP / 2);
	expect(pfn_of(region), KPF_ANON, KPF_THP | KPF_SWAPBACKED, "the first page");
	expect(pfn_of(region + THP - PAGE), KPF_ANON | KPF_SWAPBACKED, KPF_THP, "the last page");
	mark("anon", region, 0, 0, "freed");
	mark("anon", region, 255, 0, "freed");
	mark("anon", region, 256, 0, "kept");
	mark("anon", region, 511, 0, "kept");
}

// No PMD can map a THP at an address that is not a multiple of its size.
static void thp_misaligned(void)
{
	char *region = thp();
	uint64_t head = pfn_of(region);
	char *target = aligned_region(2 * THP, THP) + 5 * PAGE;
	check(mremap(region, THP, THP, MREMAP_MAYMOVE | MREMAP_FIXED, target) == target, "mremap");
	expect(head, KPF_THP, 0, "not a THP any more");
	check(pfn_of(target) == head && pfn_of(target + THP - PAGE) == head + 511, "the THP was copied");
	mark_folio("anon-thp", target, head, 512, 0, "");
}

static void unmap_page_0(void *region)
{
	uint64_t head = pfn_of(region);
	check(madvise(region, PAGE, MADV_DONTNEED) == 0, "madvise(MADV_DONTNEED)");
	mark_folio("anon-thp", region, head, 512, 0, "child");
}

// The page that kernels take for the whole folio when they guess who shares it.
static void thp_page_0_unmapped(void)
{
	char *region = thp();
	uint64_t head = pfn_of(region);
	in_child(unmap_page_0, region);
	check(madvise(region, PAGE, MADV_DONTNEED) == 0, "madvise(MADV_DONTNEED)");
	expect(head, KPF_THP, 0, "not a THP any more");
	expect_mappings(head, 0, "page 0");
	expect_mappings(head + 1, 2, "page 1");
	mark_folio("anon-thp", region, head, 512, 0, "parent");
}

static void thp_mlocked_part(void)
{
	char *region = thp();
	check(mlock(region, THP / 2) == 0, "mlock");
	drain();
	expect(pfn_of(region), KPF_THP, 0, "not a THP any more");
	mark_folio("anon-thp", region, pfn_of(region), 512, 0, "first half locked");
}

static void thp_munlocked_part(void)
{
	char *region = thp();
	check(mlock(region, THP) == 0, "mlock");
	drain();
	expect(pfn_of(region), KPF_THP | KPF_UNEVICTABLE, 0, "not locked");
	check(munlock(region + THP / 2, THP / 2) == 0, "munlock");
	drain();
	expect(pfn_of(region), KPF_THP, 0, "not a THP any more");
	mark_folio("anon-thp", region, pfn_of(region), 512, 0, "second half unlocked");
}

const struct scenario scenarios_thp[] = {
	{"thp_lazyfree", thp_lazyfree},
	{"thp_lazyfree_dirty", thp_lazyfree_dirty},
	{"thp_lazyfree_part", thp_lazyfree_part},
	{"thp_misaligned", thp_misaligned},
	{"thp_page_0_unmapped", thp_page_0_unmapped},
	{"thp_mlocked_part", thp_mlocked_part},
	{"thp_munlocked_part", thp_munlocked_part},
	{0},
};
