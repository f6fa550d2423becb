// SPDX-License-Identifier: LGPL-2.1-or-later
// Pages pinned while something is under way, which here never ends; and pages that came through userfaultfd.
#include "pins.h"

#include <linux/userfaultfd.h>
#include <sys/ioctl.h>

static void mark_middle(char *region, const char *note)
{
	for (int i = 0; i < 3; i++) {
		expect_settled(pfn_of(region + i * PAGE), KPF_LRU | KPF_ANON, KPF_THP, "not a base page on the LRU");
		mark("anon", region, i, i == 1, i == 1 ? note : "neighbour");
	}
}

static void mark_thp(char *region)
{
	expect_settled(pfn_of(region), KPF_LRU | KPF_ANON | KPF_THP, 0, "not a THP on the LRU");
	mark_folio("anon-thp", region, pfn_of(region), 512, 1, "page 3");
}

static void odirect_base(void)
{
	int disk = silent_disk(0);
	char *region = base_pages(3);
	read_for_ever(region + PAGE, disk);
	mark_middle(region, "read in flight");
}

static void odirect_thp(void)
{
	int disk = silent_disk(1);
	char *region = thp();
	read_for_ever(region + 3 * PAGE, disk);
	mark_thp(region);
}

static void vm_readv_base(void)
{
	char *region = base_pages(3);
	check(madvise(region, 3 * PAGE, MADV_DONTFORK) == 0, "madvise(MADV_DONTFORK)");
	in_child(read_remote_for_ever, region + PAGE);
	mark_middle(region, "process_vm_readv");
}

static void vm_readv_thp(void)
{
	char *region = thp();
	check(madvise(region, THP, MADV_DONTFORK) == 0, "madvise(MADV_DONTFORK)");
	in_child(read_remote_for_ever, region + 3 * PAGE);
	mark_thp(region);
}

static void mark_plain(char *region, int pages)
{
	for (int i = 0; i < pages; i++) {
		expect_settled(pfn_of(region + i * PAGE), KPF_LRU | KPF_ANON, KPF_THP, "not a base page on the LRU");
		mark("anon", region, i, 0, "");
	}
}

static void uffd_copied(void)
{
	char *region = aligned_region(2 * PAGE, THP), *source = aligned_region(2 * PAGE, THP);
	fill(source, 2 * PAGE);
	int fd = userfault(region, 2 * PAGE);
	struct uffdio_copy copy = {.dst = (uintptr_t)region, .src = (uintptr_t)source, .len = 2 * PAGE};
	check(ioctl(fd, UFFDIO_COPY, &copy) == 0 && copy.copy == (int64_t)(2 * PAGE), "UFFDIO_COPY");
	mark_plain(region, 2);
}

static void uffd_registered(void)
{
	char *region = base_pages(2);
	userfault(region, 2 * PAGE);
	mark_plain(region, 2);
}

const struct scenario scenarios_inflight[] = {
	{"odirect_base", odirect_base},
	{"odirect_thp", odirect_thp},
	{"vm_readv_base", vm_readv_base},
	{"vm_readv_thp", vm_readv_thp},
	{"uffd_copied", uffd_copied},
	{"uffd_registered", uffd_registered},
	{0},
};
