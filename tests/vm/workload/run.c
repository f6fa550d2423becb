// SPDX-License-Identifier: LGPL-2.1-or-later
// Runs one scenario in a process of its own, which then stays as it is.
#include "lab.h"

#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>

// In seconds. Less than the harness has, so that it is us who say what was slow.
#define PATIENCE 240

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
		}
		usleep(1000);
	}
	if (table->state == LACKING)
		printf("LACKS scenario=%s why=%s\n", scenario->name, table->why);
	if (table->state == FAILED)
		printf("FAIL scenario=%s why=%s\n", scenario->name, table->why);
}
