// SPDX-License-Identifier: LGPL-2.1-or-later
// Another pid 1: processes that never rest, to be stopped at any moment.
#include "load.h"

#include <signal.h>

struct shared *shared;

static void let_the_kernel_work(void)
{
	// What hold_gates_still() has put to sleep, and what the kernel does by itself. Not every kernel has each.
	static const char *const settings[][2] = {
		{"/proc/sys/vm/dirty_writeback_centisecs", "20"},
		{"/proc/sys/vm/dirty_expire_centisecs", "50"},
		{"/sys/kernel/mm/ksm/sleep_millisecs", "20"},
		{"/sys/kernel/mm/ksm/pages_to_scan", "100"},
		{"/sys/kernel/mm/ksm/run", "1"},
		{"/sys/kernel/mm/transparent_hugepage/khugepaged/pages_to_scan", "512"},
		{"/sys/kernel/mm/transparent_hugepage/khugepaged/max_ptes_none", "256"},
		{"/sys/kernel/mm/transparent_hugepage/khugepaged/max_ptes_swap", "64"},
		{"/sys/kernel/mm/transparent_hugepage/khugepaged/alloc_sleep_millisecs", "100"},
		{"/sys/kernel/mm/transparent_hugepage/khugepaged/scan_sleep_millisecs", "100"},
	};
	for (size_t i = 0; i < ARRAY_SIZE(settings); i++)
		write_file(settings[i][0], settings[i][1]);
}

static void make_disk(void)
{
	int fd = open("/ramfs/disk", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	check(fd >= 0 && ftruncate(fd, DISK_SIZE) == 0, "/ramfs/disk");
	close(fd);
	attach_loop(2, "/ramfs/disk");
}

int main(void)
{
	const char *seed = getenv("load_seed");
	setvbuf(stdout, NULL, _IOLBF, 0);
	make_table();
	mount_all();
	load_modules();
	open_agent();
	hold_gates_still();
	wait_for_movable_node();
	attach_disks();
	make_disk();
	let_the_kernel_work();
	learn_to_stop();
	check(seed != NULL, "nobody says from which number to begin");
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	check(shared != MAP_FAILED, "no memory");
	// Processes that end are nobody's concern.
	signal(SIGCHLD, SIG_DFL);
	for (int i = 0; i < ACTORS; i++) {
		shared->pid[i] = fork();
		if (shared->pid[i] == 0)
			act_for_ever(i, strtoul(seed, NULL, 0));
	}
	printf("READY\n");
	agent();
}
