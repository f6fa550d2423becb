// SPDX-License-Identifier: LGPL-2.1-or-later
#include "python.h"

#include "../lab.h"

#include <sys/mount.h>

#define ROOT "/inside"

static void mount_under(const char *name)
{
	char path[64];
	snprintf(path, sizeof(path), ROOT "%s", name);
	check(mount(name, path, NULL, MS_BIND | MS_REC, NULL) == 0, path);
}

// The node that is looked at is left alone.
static void run_python(const char *python)
{
	char *arguments[] = {(char *)python, "-I", "/inside.py", NULL};
	char *environment[] = {"HOME=/", NULL};
	bind_to_node(BOOT_NODE);
	check(chroot(ROOT) == 0 && chdir("/") == 0, "chroot");
	execve(python, arguments, environment);
	dprintf(1, "FAIL %s: %m\n", python);
	_exit(1);
}

pid_t start_python(const char *disk)
{
	const char *python = getenv("inside_python");
	check(python != NULL, "nobody says where Python is");
	mkdir(ROOT, 0755);
	check(mount(disk, ROOT, "ext4", MS_RDONLY, NULL) == 0, "no disk");
	mount_under("/proc");
	mount_under("/sys");
	mount_under("/dev");
	pid_t pid = fork();
	if (pid == 0)
		run_python(python);
	return pid;
}
