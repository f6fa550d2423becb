// SPDX-License-Identifier: LGPL-2.1-or-later
// Runs one scenario in a process of its own, which then stays as it is.
#include "lab.h"

#include <glob.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>

// In seconds. Less than the harness has, so that it is us who say what was slow.
#define PATIENCE 240

// So that a scenario that did not come out tells where it stands: the tasks of its processes, and their kernel stacks.
static void print_stacks(int pgid)
{
	static char text[4096];
	glob_t tasks;
	if (glob("/proc/[0-9]*/task/[0-9]*/", 0, NULL, &tasks))
		return;
	for (size_t i = 0; i < tasks.gl_pathc; i++) {
		char path[64];
		int group;
		snprintf(path, sizeof(path), "%sstat", tasks.gl_pathv[i]);
		if (read_file(path, text, sizeof(text)) || sscanf(text, "%*d (%*[^)]) %*c %*d %d", &group) != 1 || group != pgid)
			continue;
		snprintf(path, sizeof(path), "%sstack", tasks.gl_pathv[i]);
		if (read_file(path, text, sizeof(text)) == 0)
			printf("STACK %s\n%s\n", path, text);
	}
	globfree(&tasks);
}

void run(const struct scenario *scenario, void (*prepare)(void))
{
	snprintf(table->scenario, sizeof(table->scenario), "%s", scenario->name);
	table->state = RUNNING;
	table->children = 0;
	// One process for each: in a common one every fork would share the pages of all the other scenarios.
	pid_t pid = fork();
	if (pid == 0) {
		setpgid(0, 0);
		prctl(PR_SET_NAME, scenario->name);
		if (prepare)
			prepare();
		scenario->run();
		table->state = READY;
		for (;;)
			pause();
	}
	add_group(scenario->name, pid);
	time_t start = time(NULL);
	while (table->state == RUNNING) {
		int status;
		if (waitpid(pid, &status, WNOHANG) == pid && table->state == RUNNING) {
			snprintf(table->why, sizeof(table->why), "died, wait status %#x", status);
			table->state = FAILED;
		} else if (time(NULL) > start + PATIENCE) {
			snprintf(table->why, sizeof(table->why), "still not there after %d s", PATIENCE);
			table->state = FAILED;
			print_stacks(pid);
		}
		usleep(1000);
	}
	if (table->state == LACKING)
		printf("LACKS scenario=%s why=%s\n", scenario->name, table->why);
	if (table->state == FAILED)
		printf("FAIL scenario=%s why=%s\n", scenario->name, table->why);
}
