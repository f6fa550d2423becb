// SPDX-License-Identifier: LGPL-2.1-or-later
// Twenty holds that last: pages of processes and files in pipes.
#include "churn.h"

#include <sys/uio.h>

#define BASE 6
#define HUGE 5
#define SHMEM 3
#define DISK 3
#define HUGE_SHMEM 3

// Every one of them keeps its own process.
static volatile int *held;

static void say(const char *kind, uint64_t pfn)
{
	must(pfn != 0, "a held page is not there");
	dprintf(1, "HELD %s %#lx\n", kind, pfn);
	__sync_fetch_and_add(held, 1);
	for (;;)
		pause();
}

static void into_pipe(void *page)
{
	int ends[2];
	struct iovec piece = {page, PAGE};
	must(pipe(ends) == 0 && vmsplice(ends[1], &piece, 1, 0) == (ssize_t)PAGE, "vmsplice");
}

static void base(int number)
{
	char *region = aligned_region(16 * PAGE, PAGE);
	memset(region, number + 1, 16 * PAGE);
	into_pipe(region + 5 * PAGE);
	say("base", pfn_of(region + 5 * PAGE));
}

static void huge(int number)
{
	char *region = aligned_region(THP, THP);
	must(madvise(region, THP, MADV_HUGEPAGE) == 0, "madvise");
	memset(region, number + 1, THP);
	into_pipe(region + 100 * PAGE * number);
	say("huge", pfn_of(region));
}

// A page of a file, spliced, so that a pipe has the page itself.
static void of_file(const char *directory, int number)
{
	char path[64];
	int ends[2];
	loff_t offset = PAGE;
	snprintf(path, sizeof(path), "%s/held%d", directory, number);
	int fd = open(path, O_RDWR | O_CREAT, 0600);
	must(fd >= 0, path);
	for (int i = 0; i < 4; i++) {
		char page[PAGE];
		memset(page, number + i + 1, PAGE);
		must(write(fd, page, PAGE) == (ssize_t)PAGE, path);
	}
	char *region = mmap(NULL, 4 * PAGE, PROT_READ, MAP_SHARED, fd, 0);
	must(region != MAP_FAILED, path);
	touch(region, 4 * PAGE);
	must(pipe(ends) == 0 && splice(fd, &offset, ends[1], NULL, PAGE, 0) == (ssize_t)PAGE, "splice");
	say(directory + 1, pfn_of(region + PAGE));
}

static void shmem(int number)
{
	of_file("/tmpfs", number);
}

static void disk(int number)
{
	of_file("/ext4", number);
}

static void huge_shmem(int number)
{
	of_file("/tmpfs-huge", number);
}

static int start(void (*run)(int), int count, int before)
{
	for (int i = 0; i < count; i++)
		begin(run, i);
	for (int tries = 0; *held < before + count && tries < 6000; tries++)
		usleep(10000);
	check(*held == before + count, "not all pages are held");
	return before + count;
}

void hold_for_ever(void)
{
	int count = 0;
	held = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	check(held != MAP_FAILED, "no memory");
	count = start(base, BASE, count);
	count = start(huge, HUGE, count);
	count = start(shmem, SHMEM, count);
	count = start(disk, DISK, count);
	start(huge_shmem, HUGE_SHMEM, count);
}
