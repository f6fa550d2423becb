// SPDX-License-Identifier: LGPL-2.1-or-later
// Huge pages of 2 MiB. What nobody uses is found, and marked, when all scenarios are done.
#include "../expect.h"

#include <errno.h>
#include <linux/io_uring.h>
#include <sys/mount.h>
#include <sys/uio.h>

#define GIB (1UL << 30)

static void mark_huge(char *region, int held, const char *note)
{
	uint64_t head = pfn_of(region);
	check(head != 0, "a huge page is not mapped");
	expect(head, KPF_HUGE | KPF_COMPOUND_HEAD, KPF_THP, "no huge page");
	mark_folio("hugetlb", region, head, 512, held, note);
}

static char *private_pages(int count)
{
	char *region = mmap(NULL, count * THP, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
	check(region != MAP_FAILED, "mmap(MAP_HUGETLB)");
	return region;
}

static char *map_file(int fd, size_t size)
{
	char *region = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	check(region != MAP_FAILED, "mmap of a file of huge pages");
	return region;
}

static int new_memfd(size_t size)
{
	int fd = memfd_create(table->scenario, MFD_HUGETLB);
	check(fd >= 0 && ftruncate(fd, size) == 0, "memfd_create(MFD_HUGETLB)");
	return fd;
}

// The first scenario of all fills the pool. What is left of it in the end stays free.
static void hugetlb_private(void)
{
	resize_pool(POOL("1"), 20);
	char *region = private_pages(1);
	fill(region, THP);
	mark_huge(region, 0, "");
}

static void mark_in_child(void *region)
{
	// What is shared on purpose is not inherited, but looked up.
	touch(region, PAGE);
	mark_huge(region, 0, "child");
}

static void hugetlb_forked(void)
{
	char *region = private_pages(1);
	fill(region, THP);
	in_child(mark_in_child, region);
	mark_huge(region, 0, "parent");
	expect_mappings(pfn_of(region), 2, "a forked huge page");
}

static void hugetlb_reserved(void)
{
	unsigned long before = number_in("/proc/meminfo", "HugePages_Rsvd:");
	char *region = private_pages(3);
	// One of the three is used, so that there is something to mark.
	fill(region, THP);
	check(number_in("/proc/meminfo", "HugePages_Rsvd:") == before + 2, "no huge pages are reserved");
	mark_huge(region, 0, "two more are reserved");
}

static void hugetlb_memfd(void)
{
	char *region = map_file(new_memfd(THP), THP);
	fill(region, THP);
	in_child(mark_in_child, region);
	mark_huge(region, 0, "parent");
	expect_mappings(pfn_of(region), 2, "a shared huge page");
}

static void hugetlb_file(void)
{
	mkdir("/hugetlb", 0755);
	check(mount("hugetlb", "/hugetlb", "hugetlbfs", 0, NULL) == 0, "hugetlbfs");
	int fd = open("/hugetlb/file", O_RDWR | O_CREAT, 0600);
	check(fd >= 0 && ftruncate(fd, THP) == 0, "/hugetlb/file");
	char *region = map_file(fd, THP);
	fill(region, THP);
	in_child(mark_in_child, region);
	mark_huge(region, 0, "parent");
}

static void hugetlb_unmapped(void)
{
	char *region = map_file(new_memfd(THP), THP);
	fill(region, THP);
	uint64_t head = pfn_of(region);
	munmap(region, THP);
	expect(head, KPF_HUGE, 0, "an unmapped huge page");
	expect_mappings(head, 0, "an unmapped huge page");
	mark_folio("hugetlb", NULL, head, 512, 0, "");
}

// Two processes use one page table of 1 GiB: to the page, they are one.
static void hugetlb_pmd_shared(void)
{
	// Nothing is behind it yet, so that it is no promise of more memory than there is.
	char *region = mmap(NULL, 2 * GIB, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	region = (char *)(((uintptr_t)region + GIB - 1) & ~(GIB - 1));
	int fd = new_memfd(GIB);
	check(mmap(region, GIB, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED | MAP_NORESERVE, fd, 0) == region, "mmap");
	fill(region, THP);
	in_child(mark_in_child, region);
	mark_huge(region, 0, "parent");
	expect_mappings(pfn_of(region), 1, "the page table is not shared");
}

static void hugetlb_memfd_held(void)
{
	char *region = map_file(new_memfd(THP), THP);
	fill(region, THP);
	hold(region + 3 * PAGE);
	mark_huge(region, 1, "page 3");
}

static void hugetlb_fixed(void)
{
	struct io_uring_params params = {0};
	int ring = syscall(SYS_io_uring_setup, 1, &params);
	check(ring >= 0, "io_uring_setup");
	// Where such memory may not be movable, the page goes to the other node first.
	resize_pool(POOL("0"), 1);
	char *region = private_pages(1);
	fill(region, THP);
	struct iovec buffer = {region + 3 * PAGE, PAGE};
	int done = syscall(SYS_io_uring_register, ring, IORING_REGISTER_BUFFERS, &buffer, 1);
	// Some look for the other page on the same node only, all of which is movable.
	if (done && errno == ENOMEM)
		lacks("huge pages are not moved out of movable memory to be pinned");
	check(done == 0, "IORING_REGISTER_BUFFERS");
	mark_huge(region, 1, "page 3");
}

const struct scenario scenarios_hugetlb[] = {
	{"hugetlb_private", hugetlb_private},
	{"hugetlb_forked", hugetlb_forked},
	{"hugetlb_reserved", hugetlb_reserved},
	{"hugetlb_memfd", hugetlb_memfd},
	{"hugetlb_file", hugetlb_file},
	{"hugetlb_unmapped", hugetlb_unmapped},
	{"hugetlb_pmd_shared", hugetlb_pmd_shared},
	{"hugetlb_memfd_held", hugetlb_memfd_held},
	{"hugetlb_fixed", hugetlb_fixed},
	{0},
};
