// SPDX-License-Identifier: LGPL-2.1-or-later
// Another pid 1: some pages held for ever, and a Python that looks at them from inside.
#include "../lab.h"

#include <errno.h>
#include <linux/mempolicy.h>
#include <sys/mount.h>
#include <sys/wait.h>

#define ROOT "/inside"

static void hold_some(void)
{
	pid_t pid = fork();
	if (pid == 0) {
		bind_to_movable_node();
		for (int i = 0; i < 3; i++) {
			hold((char *)thp() + 7 * PAGE);
			hold((char *)base_pages(4) + PAGE);
			thp();
			base_pages(20);
		}
		drain();
		table->state = READY;
		for (;;)
			pause();
	}
	for (int tries = 0; table->state != READY && tries < 3000; tries++)
		usleep(10000);
	check(table->state == READY, "nothing is held");
}

static void mount_under(const char *name)
{
	char path[64];
	snprintf(path, sizeof(path), ROOT "%s", name);
	check(mount(name, path, NULL, MS_BIND | MS_REC, NULL) == 0, path);
}

// The node that is looked at is left alone.
static void run_python(const char *python)
{
	unsigned long nodes = 1;
	char *arguments[] = {(char *)python, "-I", "/inside.py", NULL};
	char *environment[] = {"HOME=/", NULL};
	check(syscall(SYS_set_mempolicy, MPOL_BIND, &nodes, 8 * sizeof(nodes)) == 0, "set_mempolicy");
	check(chroot(ROOT) == 0 && chdir("/") == 0, "chroot");
	execve(python, arguments, environment);
	dprintf(1, "FAIL %s: %m\n", python);
	_exit(1);
}

int main(void)
{
	const char *python = getenv("inside_python");
	int status = 0;
	setvbuf(stdout, NULL, _IOLBF, 0);
	make_table();
	mount_all();
	load_modules();
	hold_gates_still();
	wait_for_movable_node();
	hold_some();
	// Not every kernel has it.
	mount("securityfs", "/sys/kernel/security", "securityfs", 0, NULL);
	mkdir(ROOT, 0755);
	check(mount("/dev/vda", ROOT, "ext4", MS_RDONLY, NULL) == 0, "no disk");
	mount_under("/proc");
	mount_under("/sys");
	mount_under("/dev");
	check(python != NULL, "nobody says where Python is");
	pid_t pid = fork();
	if (pid == 0)
		run_python(python);
	waitpid(pid, &status, 0);
	printf("ENDED %d\nREADY\n", status);
	for (;;)
		pause();
}
