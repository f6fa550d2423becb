// SPDX-License-Identifier: LGPL-2.1-or-later
// Another pid 1: some pages held for ever, many for a moment, and processes that never rest.
#include "churn.h"

#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/swap.h>
#include <sys/wait.h>

#include "../inside/python.h"

static uint64_t state = 1;

unsigned long roll(unsigned long limit)
{
	// splitmix64
	uint64_t z = state += 0x9e3779b97f4a7c15;
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	return (z ^ z >> 31) % limit;
}

void must(int ok, const char *what)
{
	if (ok)
		return;
	dprintf(1, "FAIL a process of the churn: %s: %m\n", what);
	_exit(1);
}

int begin(void (*run)(int number), int number)
{
	uint64_t seed = roll(~0UL);
	int pid = fork();
	if (pid)
		return pid;
	prctl(PR_SET_NAME, "churn");
	state = seed;
	bind_to_movable_node();
	run(number);
	_exit(0);
}

static void attach_what_is_used(void)
{
	char path[32];
	attach_loop(0, "/ext4.img");
	mkdir("/ext4", 0755);
	check(mount("/dev/loop0", "/ext4", "ext4", 0, NULL) == 0, "/ext4");
	check(swapon(SWAP_DISK, 0) == 0, "swapon");
	// The modules are loaded, and their files are in ramfs.
	for (int i = 0; i < 100; i++) {
		snprintf(path, sizeof(path), "/modules/%02d.ko", i);
		unlink(path);
	}
}

// It looks for ever. Under emulation a Python is slow as it is, and all others here never rest.
static void look_from_inside(void)
{
	int status = 0;
	if (fork())
		return;
	must(setpriority(PRIO_PROCESS, 0, -15) == 0, "setpriority");
	signal(SIGCHLD, SIG_DFL);
	waitpid(start_python(PYTHON_DISK), &status, 0);
	dprintf(1, "FAIL Python ended with status %#x\n", status);
	_exit(1);
}

int main(void)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	make_table();
	mount_all();
	load_modules();
	open_agent();
	hold_gates_still();
	wait_for_movable_node();
	attach_what_is_used();
	// Processes that end are nobody's concern.
	signal(SIGCHLD, SIG_IGN);
	hold_for_ever();
	hold_for_moments();
	if (getenv("churn_changes"))
		change_for_ever();
	begin(tell_time_for_ever, 0);
	if (getenv("inside_python"))
		look_from_inside();
	printf("READY\n");
	agent();
}
