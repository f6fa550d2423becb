// SPDX-License-Identifier: LGPL-2.1-or-later
// Pages in pipes: open in one process, in several, or in none.
#include "holders.h"

#include <sys/socket.h>

static void share(void *holder)
{
	shares(*(int *)holder);
}

// Two pipes of one process, one of them with two of its pages.
static void pipes(void)
{
	int first[2], second[2];
	char *region = base_pages(3);
	into_pipe(first, region);
	into_pipe(second, region + PAGE);
	struct iovec piece = {region + 2 * PAGE, PAGE};
	check(vmsplice(first[1], &piece, 1, 0) == (ssize_t)PAGE, "vmsplice");
	holds("pipe", region, first[0], 1, 0);
	holds("pipe", region + PAGE, second[0], 1, 0);
	holds("pipe", region + 2 * PAGE, first[1], 1, 0);
	for (int i = 0; i < 3; i++)
		mark("anon", region, i, 1, "pipe");
}

static void pipe_shared(void)
{
	int ends[2];
	char *page = base_pages(1);
	check(madvise(page, PAGE, MADV_DONTFORK) == 0, "madvise(MADV_DONTFORK)");
	into_pipe(ends, page);
	int number = holds("pipe", page, ends[0], 1, 0);
	in_child(share, &number);
	in_child(share, &number);
	mark("anon", page, 0, 1, "pipe of three");
}

// The end to read from is closed, and then that to write to is the only one.
static void pipe_thp(void)
{
	int ends[2], others[2];
	char *region = thp();
	into_pipe(ends, region + 3 * PAGE);
	into_pipe(others, region + 5 * PAGE);
	holds("pipe", region, ends[0], 1, 0);
	holds("pipe", region, others[0], 1, 0);
	close(ends[1]);
	mark_folio("anon-thp", region, pfn_of(region), 512, 1, "two pipes");
}

static void pipe_tee(void)
{
	int ends[2], others[2], fd = file_of("/tmpfs", 1);
	from_file(ends, fd);
	check(pipe(others) == 0 && tee(ends[0], others[1], PAGE, 0) == (ssize_t)PAGE, "tee");
	char *page = map_file(fd, 1);
	holds("pipe", page, ends[0], 1, 0);
	holds("pipe", page, others[0], 1, 0);
	mark("shmem", page, 0, 1, "two pipes");
}

static void pipe_ext4(void)
{
	int ends[2], fd = file_of("/ext4", 2);
	from_file(ends, fd);
	char *page = map_file(fd, 2);
	holds("pipe", page, ends[0], 1, 0);
	mark("file", page, 0, 1, "splice");
}

static void pipe_sent(void)
{
	int ends[2], sockets[2];
	char *page = base_pages(1);
	into_pipe(ends, page);
	check(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets) == 0, "socketpair");
	send_descriptor(sockets[0], ends[0]);
	close(ends[0]);
	close(ends[1]);
	// The descriptor is that of what it would be received from.
	holds("pipe", page, sockets[1], 1, 0);
	mark("anon", page, 0, 1, "pipe in flight");
}

static void pipe_registered(void)
{
	int ends[2];
	char *page = base_pages(1);
	struct ring ring = open_ring(0, NULL, NULL);
	into_pipe(ends, page);
	register_file(ring.fd, ends[0]);
	close(ends[0]);
	close(ends[1]);
	holds("pipe", page, ring.fd, 1, 0);
	mark("anon", page, 0, 1, "pipe registered");
}

const struct scenario scenarios_pipes[] = {
	{"pipes", pipes},
	{"pipe_shared", pipe_shared},
	{"pipe_thp", pipe_thp},
	{"pipe_tee", pipe_tee},
	{"pipe_ext4", pipe_ext4},
	{"pipe_sent", pipe_sent},
	{"pipe_registered", pipe_registered},
	{0},
};
