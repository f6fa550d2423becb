// SPDX-License-Identifier: LGPL-2.1-or-later
// Rings that nobody has open any more, and that are not gone yet: a work item of the kernel's waits for something.
#include "holders.h"

#include <linux/io_uring.h>
#include <signal.h>
#include <sys/uio.h>
#include <sys/wait.h>

static int rings_being_closed(void)
{
	return tasks_in("io_ring_exit_work");
}

// For the request that is on its way.
static void uring_closing(void)
{
	int disk = silent_disk(12), before = rings_being_closed();
	char *page = base_pages(1), *target = base_pages(1);
	struct iovec buffer = {page, PAGE};
	struct ring ring = open_ring(0, NULL, NULL);
	check(syscall(SYS_io_uring_register, ring.fd, IORING_REGISTER_BUFFERS, &buffer, 1) == 0, "IORING_REGISTER_BUFFERS");
	submit_read(&ring, disk, target);
	// What is not on its way yet is given up.
	wait_for_reads(12, 1);
	holds("io-uring", page, -1, 0, 1);
	holds("direct-io", target, -1, -1, -1);
	mark("anon", page, 0, 1, "ring being closed");
	munmap(ring.rings, PAGE);
	munmap(ring.entries, PAGE);
	close(ring.fd);
	while (rings_being_closed() == before)
		usleep(1000);
}

struct closing {
	volatile int user, close, closed;
};

static void close_last(struct closing *closing, int ring)
{
	while (!closing->close)
		usleep(1000);
	close(ring);
	closing->closed = 1;
	for (;;)
		pause();
}

static void use_ring(void *argument)
{
	struct closing *closing = argument;
	char *page = base_pages(1);
	check(madvise(page, PAGE, MADV_DONTFORK) == 0, "madvise(MADV_DONTFORK)");
	int ring = register_buffer(page, PAGE);
	if (fork() == 0)
		close_last(closing, ring);
	close(ring);
	holds("io-uring", page, -1, 0, 1);
	mark("anon", page, 0, 1, "ring being closed");
	closing->user = getpid();
}

// For a process that has used it, which has to do a bit of it and is stopped.
static void uring_stopped(void)
{
	struct closing *closing = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int status, before = rings_being_closed();
	check(closing != MAP_FAILED, "no memory to share");
	in_child(use_ring, closing);
	kill(closing->user, SIGSTOP);
	check(waitpid(closing->user, &status, WUNTRACED) == closing->user && WIFSTOPPED(status), "SIGSTOP");
	closing->close = 1;
	while (!closing->closed || rings_being_closed() == before)
		usleep(1000);
}

const struct scenario scenarios_closing[] = {
	{"uring_closing", uring_closing},
	{"uring_stopped", uring_stopped},
	{0},
};
