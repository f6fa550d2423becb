// SPDX-License-Identifier: LGPL-2.1-or-later
// Pages pinned while something is under way, which here never ends; and pages that came through userfaultfd.
#include "pins.h"

#include <linux/aio_abi.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/uio.h>

static void read_into(void *page, int disk)
{
	aio_context_t context = 0;
	struct iocb block = {
		.aio_lio_opcode = IOCB_CMD_PREAD, .aio_fildes = disk, .aio_buf = (uintptr_t)page, .aio_nbytes = PAGE};
	struct iocb *blocks[] = {&block};
	struct io_event event;
	struct timespec moment = {0, 50 * 1000 * 1000};
	check(syscall(SYS_io_setup, 1, &context) == 0, "io_setup");
	check(syscall(SYS_io_submit, context, 1, blocks) == 1, "io_submit");
	check(syscall(SYS_io_getevents, context, 1, 1, &event, &moment) == 0, "the read came to an end");
}

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
	read_into(region + PAGE, disk);
	mark_middle(region, "read in flight");
}

static void odirect_thp(void)
{
	int disk = silent_disk(1);
	char *region = thp();
	read_into(region + 3 * PAGE, disk);
	mark_thp(region);
}

struct endless_read {
	pid_t from;
	void *page, *into;
};

static void *read_remote(void *argument)
{
	struct endless_read *read = argument;
	struct iovec local = {read->into, PAGE}, remote = {read->page, PAGE};
	process_vm_readv(read->from, &local, 1, &remote, 1, 0);
	fail("process_vm_readv ended");
}

// The remote page is pinned before the first byte is copied to where nobody ever provides a page.
static void read_for_ever(void *page)
{
	static struct endless_read read;
	pthread_t thread;
	char *into = aligned_region(PAGE, PAGE);
	struct pollfd faults = {.fd = userfault(into, PAGE), .events = POLLIN};
	read = (struct endless_read){getppid(), page, into};
	check(pthread_create(&thread, NULL, read_remote, &read) == 0, "pthread_create");
	check(poll(&faults, 1, 10000) == 1 && faults.revents == POLLIN, "no page fault was waited for");
}

static void vm_readv_base(void)
{
	char *region = base_pages(3);
	check(madvise(region, 3 * PAGE, MADV_DONTFORK) == 0, "madvise(MADV_DONTFORK)");
	in_child(read_for_ever, region + PAGE);
	mark_middle(region, "process_vm_readv");
}

static void vm_readv_thp(void)
{
	char *region = thp();
	check(madvise(region, THP, MADV_DONTFORK) == 0, "madvise(MADV_DONTFORK)");
	in_child(read_for_ever, region + 3 * PAGE);
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
