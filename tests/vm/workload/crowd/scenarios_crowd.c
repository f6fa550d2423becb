// SPDX-License-Identifier: LGPL-2.1-or-later
#include "../lab.h"

#include <sys/socket.h>
#include <sys/uio.h>

// tests/vm/test_crowd.py has the same numbers.
#define PROCESSES 300
#define PIPES 50
#define SOCKETS 10
#define SHARED 16

static int file;
static char *shared;

static void one_of_many(void *argument)
{
	char *region = base_pages(PIPES + SOCKETS);
	int ends[2], sockets[2];
	(void)argument;
	touch(shared, SHARED * PAGE);
	for (int i = 0; i < PIPES; i++)
		hold(region + i * PAGE);
	check(pipe(ends) == 0, "pipe");
	for (int i = 0; i < SOCKETS; i++) {
		struct iovec piece = {region + (PIPES + i) * PAGE, PAGE};
		check(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets) == 0, "socketpair");
		check(vmsplice(ends[1], &piece, 1, 0) == (ssize_t)PAGE, "vmsplice");
		check(splice(ends[0], NULL, sockets[0], NULL, PAGE, 0) == (ssize_t)PAGE, "splice to a socket");
	}
}

// Each process has pages in pipes and sockets of its own; all of them map pages that another one has in a pipe.
static void crowd(void)
{
	int ends[2];
	loff_t start = 0;
	file = open("/tmpfs/crowd", O_RDWR | O_CREAT, 0600);
	check(file >= 0 && ftruncate(file, SHARED * PAGE) == 0, "/tmpfs/crowd");
	shared = mmap(NULL, SHARED * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	check(shared != MAP_FAILED, "mmap of a file");
	fill(shared, SHARED * PAGE);
	for (int i = 0; i < PROCESSES; i++)
		in_child(one_of_many, NULL);
	// Only now, or all would have it open.
	check(pipe(ends) == 0 && splice(file, &start, ends[1], NULL, SHARED * PAGE, 0) > 0, "splice");
	for (int i = 0; i < SHARED; i++)
		mark("shmem", shared, i, 1, "mapped by all");
}

const struct scenario scenarios_crowd[] = {
	{"crowd", crowd},
	{0},
};
