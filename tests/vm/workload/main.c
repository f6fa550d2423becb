// SPDX-License-Identifier: LGPL-2.1-or-later
// pid 1: sets up, runs each scenario in a process of its own, tells what there is, then sleeps.
#include "lab.h"

#include <linux/mempolicy.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>

static void bind_to_movable_node(void)
{
	unsigned long nodes = 1UL << MOVABLE_NODE;
	check(syscall(SYS_set_mempolicy, MPOL_BIND, &nodes, 8 * sizeof(nodes)) == 0, "set_mempolicy");
}

static void run(const struct scenario *scenario)
{
	snprintf(table->scenario, sizeof(table->scenario), "%s", scenario->name);
	table->state = RUNNING;
	table->children = 0;
	// One process for each: in a common one every fork would share the pages of all the other scenarios.
	pid_t pid = fork();
	if (pid == 0) {
		prctl(PR_SET_NAME, scenario->name);
		bind_to_movable_node();
		scenario->run();
		table->state = READY;
		for (;;)
			pause();
	}
	time_t start = time(NULL);
	while (table->state == RUNNING) {
		int status;
		if (waitpid(pid, &status, WNOHANG) == pid && table->state == RUNNING) {
			snprintf(table->why, sizeof(table->why), "died, wait status %#x", status);
			table->state = FAILED;
		} else if (time(NULL) > start + 60) {
			snprintf(table->why, sizeof(table->why), "still not there after a minute");
			table->state = FAILED;
		}
		usleep(1000);
	}
	if (table->state == LACKING)
		printf("LACKS scenario=%s why=%s\n", scenario->name, table->why);
	if (table->state == FAILED)
		printf("FAIL scenario=%s why=%s\n", scenario->name, table->why);
}

int main(void)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	make_table();
	mount_all();
	load_modules();
	hold_gates_still();
	wait_for_movable_node();
	attach_disks();
	prepare_report();
	const struct scenario *const all[] = {scenarios_anon, scenarios_held,	 scenarios_file,
					      scenarios_swap, scenarios_special, scenarios_last};
	for (size_t i = 0; i < ARRAY_SIZE(all); i++)
		for (const struct scenario *s = all[i]; s->name; s++)
			run(s);
	report();
	agent();
}
