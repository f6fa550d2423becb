// SPDX-License-Identifier: LGPL-2.1-or-later
// Direct I/O that is in flight for ever. These are the first ones: the servers of disks have all open that there is.
#include "holders.h"

#include <linux/aio_abi.h>
#include <pthread.h>
#include <sys/mount.h>

static void dio_aio(void)
{
	int disk = silent_disk(0);
	char *page = base_pages(1), *huge = thp();
	holds("aio", read_for_ever(page, disk), -1, -1, 0);
	holds("aio", read_for_ever(huge + 3 * PAGE, disk), -1, -1, 0);
	holds("direct-io", page, -1, -1, -1);
	holds("direct-io", huge, -1, -1, -1);
	mark("anon", page, 0, 1, "aio");
}

static void dio_uring(void)
{
	int disk = silent_disk(1);
	char *page = base_pages(1);
	struct ring ring = open_ring(0, NULL, NULL);
	submit_read(&ring, disk, page);
	wait_for_reads(1, 1);
	holds("direct-io", page, -1, -1, -1);
	mark("anon", page, 0, 1, "io_uring");
}

struct reading {
	int fd;
	char *page;
};

static void *read_now(void *argument)
{
	struct reading *reading = argument;
	if (pread(reading->fd, reading->page, PAGE, 0) >= 0)
		fail("a read of a silent disk ended");
	return NULL;
}

// As the disk's so many-th request.
static void read_by_thread(int number, int reads, int fd, char *page)
{
	static struct reading reading;
	pthread_t thread;
	reading = (struct reading){fd, page};
	check(pthread_create(&thread, NULL, read_now, &reading) == 0, "pthread_create");
	wait_for_reads(number, reads);
}

static void dio_sync(void)
{
	int disk = silent_disk(2);
	char *page = base_pages(1);
	read_by_thread(2, 1, disk, page);
	holds("direct-io", page, -1, -1, -1);
	mark("anon", page, 0, 1, "read");
}

static int open_on_silent_disk(void)
{
	volatile int *silent = attach_silent_disk(3, "/ext4.img");
	mkdir("/silent", 0755);
	check(mount("/dev/nbd3", "/silent", "ext4", MS_RDONLY, "noload") == 0, "mount of a disk");
	int fd = open("/silent/mapped", O_RDONLY | O_DIRECT);
	check(fd >= 0, "open on a disk");
	// What is in the way to its blocks is read once.
	check(pread(fd, base_pages(1), PAGE, PAGE) == (ssize_t)PAGE, "read of a disk");
	*silent = 1;
	return fd;
}

// Through a file system, which has structures of its own for it.
static void dio_ext4(void)
{
	int fd = open_on_silent_disk();
	char *page = base_pages(1), *other = base_pages(1);
	holds("aio", read_for_ever(page, fd), -1, -1, 0);
	read_by_thread(3, 2, fd, other);
	holds("direct-io", page, -1, -1, -1);
	holds("direct-io", other, -1, -1, -1);
	mark("anon", page, 0, 1, "aio");
	mark("anon", other, 0, 1, "read");
}

static void dio_ext4_uring(void)
{
	int fd = open("/silent/unmapped", O_RDONLY | O_DIRECT);
	if (fd < 0)
		lacks("no file");
	char *page = base_pages(1);
	struct ring ring = open_ring(0, NULL, NULL);
	submit_read(&ring, fd, page);
	wait_for_reads(3, 3);
	holds("direct-io", page, -1, -1, -1);
	mark("anon", page, 0, 1, "io_uring");
}

// The pages of the ring are in a page cache, and their reference is one that is known of.
static void aio_ring(void)
{
	aio_context_t context = 0;
	check(syscall(SYS_io_setup, 8, &context) == 0, "io_setup");
	holds("aio", (void *)context, -1, -1, 0);
}

const struct scenario scenarios_disks[] = {
	{"dio_aio", dio_aio},
	{"dio_uring", dio_uring},
	{"dio_sync", dio_sync},
	{"dio_ext4", dio_ext4},
	{"dio_ext4_uring", dio_ext4_uring},
	{"aio_ring", aio_ring},
	{0},
};
