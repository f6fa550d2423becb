// SPDX-License-Identifier: LGPL-2.1-or-later
// One process of the load, and its children.
#include "load.h"

#include <errno.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#define CHILDREN 2

static uint64_t state;
static int children, is_child;

unsigned long roll(unsigned long limit)
{
	// splitmix64
	uint64_t z = state += 0x9e3779b97f4a7c15;
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	return (z ^ z >> 31) % limit;
}

struct piece piece(size_t most_pages)
{
	size_t pages = 1 + roll(most_pages);
	return (struct piece){ARENA + roll(ARENA_PAGES - pages + 1) * PAGE, pages * PAGE};
}

void must(int ok, const char *what)
{
	if (ok)
		return;
	dprintf(1, "FAIL a process of the load: %s: %m\n", what);
	_exit(1);
}

// Waits in user mode, or as good as, so that the process goes on doing what the kernel asks of it: what waits for that
// would keep its pages for as long (io_ring_exit_work()). Neither who is stopped by SIGSTOP does it, nor, before
// 943ad0b62e3c ("kernel: rerun task_work while freezing in get_signal()") (in v6.11), who is frozen by its cgroup.
static void stop(int signal)
{
	int error = errno;
	(void)signal;
	wait_while_stopped();
	errno = error;
}

void learn_to_stop(void)
{
	struct sigaction action = {.sa_handler = stop, .sa_flags = SA_RESTART};
	sigfillset(&action.sa_mask);
	sigaction(SIGUSR1, &action, NULL);
}

static void died(int signal)
{
	dprintf(1, "FAIL a process of the load got signal %d\n", signal);
	_exit(1);
}

static void act(int number)
{
	unsigned long kind = roll(16);
	if (kind < 8)
		change_memory();
	else if (kind < 12)
		hold_memory();
	else
		use_files(number);
	if (roll(3) == 0)
		usleep(roll(4000));
}

static void have_child(int number)
{
	uint64_t seed = roll(~0UL);
	while (children && waitpid(-1, NULL, WNOHANG) > 0)
		children--;
	if (is_child || children == CHILDREN)
		return;
	pid_t pid = fork();
	if (pid > 0)
		children++;
	if (pid)
		return;
	state = seed;
	is_child = 1;
	for (unsigned long left = roll(40); left; left--)
		act(number);
	usleep(roll(300000));
	_exit(0);
}

void act_for_ever(int number, unsigned long seed)
{
	prctl(PR_SET_NAME, "load");
	signal(SIGSEGV, died);
	signal(SIGBUS, died);
	state = seed * ACTORS + number;
	bind_to_movable_node();
	must(mmap(ARENA, ARENA_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == ARENA,
	      "no arena");
	open_files(number);
	for (;;) {
		if (roll(20) == 0)
			have_child(number);
		act(number);
	}
}
