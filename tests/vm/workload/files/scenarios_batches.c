// SPDX-License-Identifier: LGPL-2.1-or-later
// Folios in the batches of a CPU, which have a reference on them: one in each kind that a process can fill.
#include "../lab.h"

#include <sched.h>

#define SWAP_TRIES 64

static void run_on(pid_t pid, int cpu)
{
	cpu_set_t set;
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	check(sched_setaffinity(pid, sizeof(set), &set) == 0, "sched_setaffinity");
}

static int has(void *page, uint64_t all, uint64_t none)
{
	uint64_t flags = kpageflags(pfn_of(page));
	return (flags & all) == all && !(flags & none);
}

// A page of a tmpfs, through which it can be accessed as often as is wanted.
static char *accessible(const char *path, int *fd)
{
	*fd = open(path, O_RDWR | O_CREAT, 0600);
	check(*fd >= 0 && ftruncate(*fd, PAGE) == 0, path);
	char *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, *fd, 0);
	check(page != MAP_FAILED, "mmap of a file");
	fill(page, PAGE);
	return page;
}

// The first access is noted, or has been; with the next one an inactive page becomes active, once its batch is emptied.
static void access_once_more(int fd)
{
	check(pwrite(fd, "x", 1, 0) == 1, "pwrite");
}

// When a page that was paged out has been written, it is put at the end of the LRU, by a batch of the CPU that hears of
// it. It must be on the LRU by then, so there is little time to empty the batch that brings it back there.
static uint64_t rotate(char *region)
{
	char *nothing = aligned_region(PAGE, THP);
	for (int i = 0; i < SWAP_TRIES; i++) {
		char *page = region + i * PAGE;
		uint64_t pfn = pfn_of(page);
		check(madvise(page, PAGE, MADV_PAGEOUT) == 0, "madvise(MADV_PAGEOUT)");
		check(madvise(nothing, PAGE, MADV_COLD) == 0, "madvise(MADV_COLD)");
		uint64_t flags = kpageflags(pfn);
		if ((flags & (KPF_SWAPCACHE | KPF_LRU | KPF_WRITEBACK)) != (KPF_SWAPCACHE | KPF_LRU | KPF_WRITEBACK))
			continue;
		for (int tries = 0; tries < 5000 && (kpageflags(pfn) & KPF_WRITEBACK); tries++)
			usleep(1000);
		check((kpageflags(pfn) & (KPF_LRU | KPF_WRITEBACK)) == KPF_LRU, "the page was not written");
		return pfn;
	}
	fail("the page was always written too quickly");
}

// Paging out, MADV_COLD and MADV_FREE begin by emptying the batches of their own CPU, so each has a CPU of its own. pid 1
// stays on the first one from here on: any exit or unmapping empties batches, too. There is no page in the batch of what
// could not be dropped from a file's cache: that call ends by emptying the batches, too.
static void batches(void)
{
	int active_fd, cold_fd;
	run_on(1, 0);
	write_file("/sys/kernel/mm/lru_gen/enabled", "0"); // It knows no active pages.
	char *active = accessible("/tmpfs/active", &active_fd), *cold = accessible("/tmpfs/cold", &cold_fd);
	char *lazy = base_pages(1), *swapped = base_pages(SWAP_TRIES);
	char *added = aligned_region(2 * PAGE, THP), *locked = aligned_region(2 * PAGE, THP);
	check(syscall(SYS_mlock2, locked, 2 * PAGE, 1 /* MLOCK_ONFAULT */) == 0, "mlock2");
	// Once for all that is on this path, so that it brings no new pages of its own afterwards.
	fill(added, PAGE);
	fill(locked, PAGE);
	drain();
	for (int tries = 0; tries < 4 && !has(cold, KPF_ACTIVE, 0); tries++) {
		access_once_more(cold_fd);
		drain();
	}
	check(has(cold, KPF_ACTIVE | KPF_LRU, 0), "a page that was accessed often is not active");
	if (!has(active, KPF_REFERENCED, 0))
		access_once_more(active_fd);
	check(has(active, KPF_LRU | KPF_REFERENCED, KPF_ACTIVE), "a page that was accessed once is not as it should be");

	run_on(0, 1);
	check(madvise(cold, PAGE, MADV_COLD) == 0, "madvise(MADV_COLD)");
	check(has(cold, KPF_LRU | KPF_ACTIVE, KPF_REFERENCED), "the page was deactivated at once");
	mark("shmem", cold, 0, 0, "lru_deactivate");
	access_once_more(active_fd);
	check(has(active, KPF_LRU, KPF_ACTIVE | KPF_REFERENCED), "the page was activated at once");
	mark("shmem", active, 0, 0, "lru_activate");
	fill(added + PAGE, PAGE);
	check(has(added + PAGE, 0, KPF_LRU), "the new page is on the LRU already");
	mark("anon", added, 1, 0, "lru_add");
	fill(locked + PAGE, PAGE);
	mark("anon", locked, 1, 0, "mlock, or lru_add");

	run_on(0, 2);
	check(madvise(lazy, PAGE, MADV_FREE) == 0, "madvise(MADV_FREE)");
	check(has(lazy, KPF_LRU | KPF_SWAPBACKED, 0), "the page lost its flag at once");
	mark("anon", lazy, 0, 0, "lru_lazyfree");

	run_on(0, 0);
	mark_pfn("anon", rotate(swapped), 0, 0, "lru_rotate");
}

const struct scenario scenarios_batches[] = {{"batches", batches}, {0}};
