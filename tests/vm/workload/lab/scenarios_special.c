// SPDX-License-Identifier: LGPL-2.1-or-later
// KSM, hugetlb, secret memory, and a page that is not on the LRU yet.
#include "../lab.h"

#include <sched.h>

#ifndef SYS_memfd_secret
#define SYS_memfd_secret 447
#endif

static char *mergeable(void)
{
	char *region = aligned_region(2 * PAGE, THP);
	memset(region, 'k', PAGE);
	memset(region + PAGE, 'K', PAGE);
	check(madvise(region, 2 * PAGE, MADV_MERGEABLE) == 0, "madvise(MADV_MERGEABLE)");
	return region;
}

static void mark_merged(void *region)
{
	mark("ksm", region, 0, 0, "child");
	mark("ksm", region, 1, 0, "child");
}

static void ksm(void)
{
	char *one = mergeable(), *two = mergeable();
	int merged = 0;
	write_file("/sys/kernel/mm/ksm/sleep_millisecs", "5");
	write_file("/sys/kernel/mm/ksm/pages_to_scan", "1000");
	check(write_file("/sys/kernel/mm/ksm/run", "1") == 0, "ksmd does not run");
	for (int tries = 0; !merged && tries < 4000; tries++, usleep(5000))
		merged = pfn_of(one) == pfn_of(two) && pfn_of(one + PAGE) == pfn_of(two + PAGE);
	write_file("/sys/kernel/mm/ksm/run", "0");
	check(merged, "the pages were not merged");
	for (int i = 0; i < 2; i++) {
		mark("ksm", one, i, 0, "");
		mark("ksm", two, i, 0, "");
	}
	in_child(mark_merged, one);
}

static char *hugetlb_page(void)
{
	char *region = mmap(NULL, THP, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
	check(region != MAP_FAILED, "mmap(MAP_HUGETLB)");
	fill(region, THP);
	return region;
}

static void hugetlb(void)
{
	// Two for us and the next scenario, two that stay in the pool.
	write_file("/sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages", "4");
	char *region = hugetlb_page();
	mark_folio("hugetlb", region, pfn_of(region), 512, 0, "");
}

static void hugetlb_held(void)
{
	char *region = hugetlb_page();
	hold(region + 3 * PAGE);
	mark_folio("hugetlb", region, pfn_of(region), 512, 1, "page 3");
}

static void secretmem(void)
{
	int fd = syscall(SYS_memfd_secret, 0);
	if (fd < 0)
		lacks("no memfd_secret()");
	check(ftruncate(fd, 2 * PAGE) == 0, "ftruncate");
	char *region = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	check(region != MAP_FAILED, "mmap of secret memory");
	fill(region, 2 * PAGE);
	mark("secretmem", region, 0, 0, "");
	mark("secretmem", region, 1, 0, "");
}

const struct scenario scenarios_special[] = {
	{"ksm", ksm}, {"hugetlb", hugetlb}, {"hugetlb_held", hugetlb_held}, {"secretmem", secretmem}, {0},
};

static void run_on(pid_t pid, int cpu)
{
	cpu_set_t set;
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	check(sched_setaffinity(pid, sizeof(set), &set) == 0, "sched_setaffinity");
}

// A new page waits in a batch of its CPU, which has a reference on it, until 15 or 31 are together. From here on pid 1
// stays on the other CPU: any exit or unmapping on this one would empty the batch.
static void fresh(void)
{
	run_on(1, 0);
	run_on(0, 1);
	char *region = aligned_region(2 * PAGE, THP);
	// Once for all that is on this path, so that it brings no new pages of its own afterwards.
	fill(region, PAGE);
	(void)kpageflags(pfn_of(region));
	drain();
	fill(region + PAGE, PAGE);
	check(!(kpageflags(pfn_of(region + PAGE)) & KPF_LRU), "the new page is on the LRU already");
	mark("anon", region, 1, 0, "in a batch of CPU 1");
}

const struct scenario scenarios_last[] = {{"fresh", fresh}, {0}};
