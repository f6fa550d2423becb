// SPDX-License-Identifier: LGPL-2.1-or-later
// Another pid 1: some pages held for ever, and a Python that looks at them from inside.
#include "../lab.h"
#include "python.h"

#include <sys/mount.h>
#include <sys/wait.h>

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

int main(void)
{
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
	waitpid(start_python("/dev/vda"), &status, 0);
	printf("ENDED %d\nREADY\n", status);
	for (;;)
		pause();
}
