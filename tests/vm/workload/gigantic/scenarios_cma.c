// SPDX-License-Identifier: LGPL-2.1-or-later
// Pages in a CMA area, which is hugetlb's, for huge pages of 1 GiB. It lends them to whom it can take them back from.
#include "../expect.h"

// The only whole GiB of boot memory that is free, counted from 0.
#define AREA 0x40000UL
#define AREA_PAGES 0x40000UL
#define NODE "/sys/devices/system/node/node0/"
#define MARGIN (160UL << 10) // in KiB
#define MIB (1UL << 20)

static void settle(void)
{
	bind_to_node(BOOT_NODE);
	char text[4096];
	read_file("/proc/meminfo", text, sizeof(text));
	if (!strstr(text, "CmaTotal:"))
		lacks("built without CMA");
	check(number_in("/proc/meminfo", "CmaTotal:") == AREA_PAGES * PAGE / 1024, "no CMA area");
}

static int is_in_area(void *page)
{
	uint64_t pfn = pfn_of(page);
	return pfn >= AREA && pfn < AREA + AREA_PAGES;
}

// Memory that cannot be moved, until less is free outside of the area than in it: from then on, the area comes first.
static void cma_ballast(void)
{
	static char data[MIB];
	settle();
	// Pages of one CPU's lists make this inexact.
	while (number_in(NODE "meminfo", "MemFree:") + MARGIN > 2 * number_in("/proc/meminfo", "CmaFree:")) {
		int ends[2];
		check(pipe(ends) == 0 && fcntl(ends[1], F_SETPIPE_SZ, MIB) == (int)MIB, "pipe");
		check(write(ends[1], data, MIB) == (ssize_t)MIB, "write");
	}
}

// Calls until what it gets is in the area; what is not stays where it is. A CPU has hundreds of pages on its lists.
static char *in_area(void *(*get)(void))
{
	for (int tries = 0; tries < 2000; tries++) {
		char *region = get();
		if (is_in_area(region))
			return region;
	}
	fail("nothing in the CMA area");
	return NULL;
}

static void *one_page(void)
{
	return base_pages(1);
}

static void *one_thp(void)
{
	return thp();
}

static void cma_base(void)
{
	settle();
	mark("anon", in_area(one_page), 0, 0, "");
}

static void stay(void *page)
{
	(void)page;
}

static void cma_forked(void)
{
	settle();
	char *page = in_area(one_page);
	in_child(stay, page);
	mark("anon", page, 0, 0, "");
}

static void cma_mlocked(void)
{
	settle();
	char *page = in_area(one_page);
	check(mlock(page, PAGE) == 0, "mlock");
	mark("anon", page, 0, 0, "");
}

static void cma_held(void)
{
	settle();
	char *page = in_area(one_page);
	// Not for long, says vmsplice(): so the page may stay here.
	hold(page);
	check(is_in_area(page), "the page was moved away");
	mark("anon", page, 0, 1, "");
}

static void cma_thp(void)
{
	settle();
	char *region = in_area(one_thp);
	mark_folio("anon-thp", region, pfn_of(region), 512, 0, "");
}

static void cma_thp_held(void)
{
	settle();
	char *region = in_area(one_thp);
	hold(region + 5 * PAGE);
	check(is_in_area(region), "the THP was moved away");
	mark_folio("anon-thp", region, pfn_of(region), 512, 1, "page 5");
}

static void *next_file_page(const char *directory)
{
	static int number;
	static char page[PAGE];
	char path[80];
	snprintf(path, sizeof(path), "%s/%s", directory, table->scenario);
	int fd = open(path, O_RDWR | O_CREAT, 0600);
	check(fd >= 0, path);
	fill(page, PAGE);
	check(pwrite(fd, page, PAGE, number * PAGE) == (ssize_t)PAGE && fsync(fd) == 0, "pwrite");
	char *region = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, number++ * PAGE);
	check(region != MAP_FAILED, "mmap of a file");
	touch(region, PAGE);
	close(fd);
	return region;
}

static void *tmpfs_page(void)
{
	return next_file_page("/tmpfs");
}

static void *ext4_page(void)
{
	return next_file_page("/ext4");
}

static void cma_tmpfs(void)
{
	settle();
	mark("shmem", in_area(tmpfs_page), 0, 0, "");
}

static void cma_ext4(void)
{
	settle();
	mark("file", in_area(ext4_page), 0, 0, "");
}

static void cma_ext4_held(void)
{
	settle();
	char *page = in_area(ext4_page);
	hold(page);
	mark("file", page, 0, 1, "");
}

const struct scenario scenarios_cma[] = {
	{"cma_ballast", cma_ballast},
	{"cma_base", cma_base},
	{"cma_forked", cma_forked},
	{"cma_mlocked", cma_mlocked},
	{"cma_held", cma_held},
	{"cma_thp", cma_thp},
	{"cma_thp_held", cma_thp_held},
	{"cma_tmpfs", cma_tmpfs},
	{"cma_ext4", cma_ext4},
	{"cma_ext4_held", cma_ext4_held},
	{0},
};
