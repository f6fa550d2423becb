// SPDX-License-Identifier: LGPL-2.1-or-later
// Memory that is poisoned by its owner, in every state that the kernel tells apart. Nobody touches it afterwards.
#include "../expect.h"

#include <errno.h>
#include <signal.h>
#include <sys/wait.h>

#define OFFLINE "/sys/devices/system/memory/hard_offline_page"

#ifndef MADV_SOFT_OFFLINE
#define MADV_SOFT_OFFLINE 101
#endif

static void survive(int signal)
{
	(void)signal;
}

// The file is there if and only if the kernel was built to handle broken memory.
static void need_poison(void)
{
	if (access(OFFLINE, F_OK))
		lacks("the kernel does not handle broken memory");
	// Whoever asks for the poison is told of it in this way, and cannot ignore it.
	signal(SIGBUS, survive);
	drain();
}

// Returns the frame, which the page table forgets about.
static uint64_t poison(void *page, int advice)
{
	uint64_t pfn = pfn_of(page);
	check(pfn != 0, "a page to be poisoned is not mapped");
	// Of a folio that cannot be split, it says that it failed, and yet the mark is there.
	int done = madvise(page, PAGE, advice);
	check(done == 0 || errno == EBUSY || errno == EHWPOISON, "madvise(MADV_HWPOISON)");
	expect(pfn, KPF_HWPOISON, 0, "not poisoned");
	return pfn;
}

static void poison_base(void)
{
	need_poison();
	char *region = base_pages(3);
	uint64_t pfn = poison(region + PAGE, MADV_HWPOISON);
	expect(pfn, 0, KPF_LRU | KPF_BUDDY, "a poisoned page");
	mark_pfn("poisoned", pfn, 1, 0, "was anon");
	mark("anon", region, 0, 0, "neighbour");
	mark("anon", region, 2, 0, "neighbour");
}

static void poison_in_child(void *region)
{
	mark_pfn("poisoned", poison(region, MADV_HWPOISON), 0, 0, "was anon");
}

static void poison_forked(void)
{
	need_poison();
	char *region = base_pages(1);
	in_child(poison_in_child, region);
	check(pfn_of(region) == 0, "still mapped");
}

// The owner is gone, and took the rest of its memory along.
static void poison_left(void)
{
	need_poison();
	int ends[2];
	uint64_t pfn = 0;
	check(pipe(ends) == 0, "pipe");
	pid_t pid = fork();
	if (pid == 0) {
		pfn = poison(base_pages(1), MADV_HWPOISON);
		check(write(ends[1], &pfn, sizeof(pfn)) == sizeof(pfn), "write");
		_exit(0);
	}
	close(ends[1]);
	check(read(ends[0], &pfn, sizeof(pfn)) == sizeof(pfn) && waitpid(pid, NULL, 0) == pid, "the child failed");
	expect(pfn, KPF_HWPOISON, KPF_LRU | KPF_BUDDY, "what was left");
	mark_pfn("poisoned", pfn, 0, 0, "owner is gone");
}

// Poison splits a THP.
static void poison_thp(void)
{
	need_poison();
	char *region = thp();
	uint64_t head = pfn_of(region);
	uint64_t pfn = poison(region + 3 * PAGE, MADV_HWPOISON);
	check(pfn == head + 3, "another page was poisoned");
	expect(head, KPF_ANON, KPF_THP, "the THP was not split");
	mark_pfn("poisoned", pfn, 3, 0, "of a THP");
	mark("anon", region, 0, 0, "of a THP");
	mark("anon", region, 511, 0, "of a THP");
}

// One that cannot be split stays whole, and in use.
static void poison_thp_held(void)
{
	need_poison();
	char *region = thp();
	uint64_t head = pfn_of(region);
	hold(region + 9 * PAGE);
	poison(region + 3 * PAGE, MADV_HWPOISON);
	expect(head, KPF_THP, 0, "the THP was split");
	mark_folio("anon-thp", region, head, 512, 1, "page 3 poisoned, page 9 held");
}

static void poison_held(void)
{
	need_poison();
	char *region = base_pages(1);
	hold(region);
	uint64_t pfn = poison(region, MADV_HWPOISON);
	mark_pfn("poisoned", pfn, 0, 1, "was anon");
}

static char *huge_page(int flags)
{
	char *region = mmap(NULL, THP, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
	check(region != MAP_FAILED, "mmap(MAP_HUGETLB)");
	fill(region, THP);
	return region;
}

// A huge page that nothing but page tables knew is broken up, but for the one page.
static void poison_hugetlb(void)
{
	need_poison();
	resize_pool(POOL("1"), 6);
	char *region = huge_page(MAP_PRIVATE);
	uint64_t head = pfn_of(region);
	uint64_t pfn = poison(region + 3 * PAGE, MADV_HWPOISON);
	mark_pfn("poisoned", pfn, 3, 0, "of a huge page");
	mark_pfn("poisoned", head, 0, 0, "of a huge page");
}

// Of a file. Not in the first memory block, where all others are.
static char *huge_page_apart(void)
{
	char *regions[BLOCK_PAGES * PAGE / THP + 4], *apart = NULL;
	const unsigned long own = number_in(POOL("1"), "");
	resize_pool(POOL("1"), own + ARRAY_SIZE(regions));
	for (size_t i = 0; i < ARRAY_SIZE(regions); i++)
		regions[i] = huge_page(MAP_SHARED);
	for (size_t i = 0; i < ARRAY_SIZE(regions); i++)
		if (!apart && pfn_of(regions[i]) >= HOTPLUG_PFN + BLOCK_PAGES)
			apart = regions[i];
		else
			munmap(regions[i], THP);
	check(apart != NULL, "all huge pages are in one memory block");
	resize_pool(POOL("1"), own);
	return apart;
}

// The file keeps it, so that reading it goes on failing; and it stays where it is when the file has gone.
static void poison_hugetlb_file(void)
{
	need_poison();
	char *region = huge_page_apart();
	uint64_t head = pfn_of(region);
	uint64_t pfn = poison(region + 3 * PAGE, MADV_HWPOISON);
	expect(head, KPF_HUGE, 0, "no huge page any more");
	mark_pfn("hugetlb", head, 0, 0, "page 3 poisoned");
	mark_pfn("hugetlb", pfn, 3, 0, "poisoned");
	mark_pfn("hugetlb", head + 511, 511, 0, "page 3 poisoned");
}

static char *map_file(const char *directory)
{
	char path[64];
	static char page[PAGE];
	snprintf(path, sizeof(path), "%s/%s", directory, table->scenario);
	int fd = open(path, O_RDWR | O_CREAT | O_EXCL, 0600);
	check(fd >= 0, path);
	fill(page, PAGE);
	check(write(fd, page, PAGE) == (ssize_t)PAGE, "write");
	// What is clean is poisoned as clean.
	if (strstr(table->scenario, "clean"))
		check(fsync(fd) == 0, "fsync");
	char *region = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0);
	check(region != MAP_FAILED, "mmap of a file");
	touch(region, PAGE);
	drain();
	return region;
}

static void poison_clean(void)
{
	need_poison();
	mark_pfn("poisoned", poison(map_file("/ext4"), MADV_HWPOISON), 0, 0, "was file, clean");
}

static void poison_dirty(void)
{
	need_poison();
	mark_pfn("poisoned", poison(map_file("/ext4"), MADV_HWPOISON), 0, 0, "was file, dirty");
}

static void poison_tmpfs(void)
{
	need_poison();
	mark_pfn("poisoned", poison(map_file("/tmpfs"), MADV_HWPOISON), 0, 0, "of tmpfs");
}

// Gently: the contents go elsewhere first.
static void soft_offline(void)
{
	need_poison();
	char *region = base_pages(1);
	uint64_t pfn = poison(region, MADV_SOFT_OFFLINE);
	check(pfn_of(region) != 0 && pfn_of(region) != pfn, "the page did not move");
	mark_pfn("poisoned", pfn, 0, 0, "moved");
	mark("anon", region, 0, 0, "moved here");
}

static void soft_offline_thp(void)
{
	need_poison();
	char *region = thp();
	uint64_t pfn = poison(region + 3 * PAGE, MADV_SOFT_OFFLINE);
	mark_pfn("poisoned", pfn, 3, 0, "moved");
	mark("anon", region, 3, 0, "moved here");
	mark("anon", region, 4, 0, "neighbour");
}

static void soft_offline_hugetlb(void)
{
	need_poison();
	char *region = huge_page(MAP_PRIVATE);
	uint64_t pfn = poison(region + 3 * PAGE, MADV_SOFT_OFFLINE);
	mark_pfn("poisoned", pfn, 3, 0, "moved");
	mark_folio("hugetlb", region, pfn_of(region), 512, 0, "moved here");
}

const struct scenario scenarios_poison[] = {
	{"poison_base", poison_base},
	{"poison_forked", poison_forked},
	{"poison_left", poison_left},
	{"poison_thp", poison_thp},
	{"poison_thp_held", poison_thp_held},
	{"poison_held", poison_held},
	{"poison_hugetlb", poison_hugetlb},
	{"poison_hugetlb_file", poison_hugetlb_file},
	{"poison_clean", poison_clean},
	{"poison_dirty", poison_dirty},
	{"poison_tmpfs", poison_tmpfs},
	{"soft_offline", soft_offline},
	{"soft_offline_thp", soft_offline_thp},
	{"soft_offline_hugetlb", soft_offline_hugetlb},
	{0},
};
