// SPDX-License-Identifier: LGPL-2.1-or-later
// What holds memory from outside of mm: for as long as a pipe or a ring is kept, or an I/O lasts.
#include "load.h"

#include <linux/io_uring.h>
#include <sys/uio.h>

#define PIPES 3

static int disk = -1, ring = -1, ends[PIPES][2] = {{-1, -1}, {-1, -1}, {-1, -1}};

static void fill_pipe(void)
{
	int *pipe = ends[roll(PIPES)];
	if (pipe[0] >= 0) {
		// Kept for long, as seen by what else is done in the meantime.
		if (roll(4) == 0) {
			close(pipe[0]);
			close(pipe[1]);
			pipe[0] = -1;
		}
		return;
	}
	struct piece p = piece(4);
	struct iovec part = {p.start, p.size};
	must(pipe2(pipe, O_NONBLOCK | O_CLOEXEC) == 0, "pipe");
	vmsplice(pipe[1], &part, 1, SPLICE_F_NONBLOCK);
}

static void fix_buffers(void)
{
	struct io_uring_params parameters = {0};
	struct piece p = piece(8);
	struct iovec part = {p.start, p.size};
	if (ring >= 0) {
		close(ring);
		ring = -1;
		return;
	}
	ring = syscall(SYS_io_uring_setup, 2, &parameters);
	must(ring >= 0, "io_uring_setup");
	syscall(SYS_io_uring_register, ring, IORING_REGISTER_BUFFERS, &part, 1);
}

static void direct(void)
{
	struct piece p = piece(32);
	off_t offset = roll((DISK_SIZE - p.size) / PAGE) * PAGE;
	if (disk < 0)
		disk = open("/dev/loop2", O_RDWR | O_DIRECT | O_CLOEXEC);
	must(disk >= 0, "/dev/loop2");
	if (roll(2)) {
		if (pread(disk, p.start, p.size, offset) < 0)
			return;
	} else if (pwrite(disk, p.start, p.size, offset) < 0) {
		return;
	}
}

void hold_memory(void)
{
	switch (roll(8)) {
	case 0:
		fix_buffers();
		break;
	case 1:
	case 2:
	case 3:
		fill_pipe();
		break;
	default:
		direct();
	}
}
