// SPDX-License-Identifier: LGPL-2.1-or-later
// Holds that pass: pages in pipes that are drained, buffers of I/O that ends, pages in the batches of CPUs.
//
// Each process goes through its region slice by slice, so that no page is held again within seconds.
#include "churn.h"

#include <fcntl.h>
#include <sys/uio.h>

#define PIPERS 6
#define READERS 4
#define FAULTERS 2
#define SLICES 16
#define PIPE_PAGES 256
#define READ_PAGES 128

static struct hold one;

static void *region_of(int pages)
{
	char *region = aligned_region(pages * PAGE, PAGE);
	madvise(region, pages * PAGE, MADV_NOHUGEPAGE);
	memset(region, 1, pages * PAGE);
	return region;
}

static void pipe_for_ever(int number)
{
	int ends[2], nowhere = open("/dev/null", O_WRONLY);
	char *region = region_of(SLICES * PIPE_PAGES);
	must(nowhere >= 0 && pipe(ends) == 0, "pipe");
	must(fcntl(ends[1], F_SETPIPE_SZ, PIPE_PAGES * PAGE) > 0, "F_SETPIPE_SZ");
	for (int slice = number;; slice++) {
		struct iovec piece = {region + slice % SLICES * PIPE_PAGES * PAGE, PIPE_PAGES * PAGE};
		one.since = now_ms();
		ssize_t size = vmsplice(ends[1], &piece, 1, SPLICE_F_NONBLOCK);
		must(size > 0, "vmsplice");
		note_frames(&one, piece.iov_base, PIPE_PAGES);
		usleep(300000 + roll(300000));
		while (size > 0) {
			ssize_t gone = splice(ends[0], NULL, nowhere, NULL, size, 0);
			must(gone > 0, "splice");
			size -= gone;
		}
		tell_slow(&one, "pipe");
		// They are freed, and come back at once: the same frames, for the same process, unless they were moved off
		// the node.
		madvise(piece.iov_base, piece.iov_len, MADV_DONTNEED);
		memset(piece.iov_base, slice, piece.iov_len);
	}
}

static void read_for_ever(int number)
{
	int fd = open(SLOW_DISK, O_RDONLY | O_DIRECT);
	char *region = region_of(SLICES * READ_PAGES);
	must(fd >= 0, SLOW_DISK);
	for (int slice = number;; slice++) {
		void *buffer = region + slice % SLICES * READ_PAGES * PAGE;
		madvise(buffer, READ_PAGES * PAGE, MADV_DONTNEED);
		memset(buffer, slice, READ_PAGES * PAGE);
		note_frames(&one, buffer, READ_PAGES);
		one.since = now_ms();
		must(pread(fd, buffer, READ_PAGES * PAGE, roll(1024) * PAGE) == (ssize_t)(READ_PAGES * PAGE), "pread");
		tell_slow(&one, "read");
	}
}

static void fault_for_ever(int number)
{
	for (;; number++) {
		int pages = 1 + roll(40);
		char *region = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		must(region != MAP_FAILED, "mmap");
		memset(region, number, pages * PAGE);
		usleep(roll(50000));
		munmap(region, pages * PAGE);
	}
}

void hold_for_moments(void)
{
	for (int i = 0; i < PIPERS; i++)
		begin(pipe_for_ever, i);
	for (int i = 0; i < READERS; i++)
		begin(read_for_ever, i);
	for (int i = 0; i < FAULTERS; i++)
		begin(fault_for_ever, i);
}
