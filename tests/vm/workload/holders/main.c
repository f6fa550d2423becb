// SPDX-License-Identifier: LGPL-2.1-or-later
// As the shared one, and tells who holds pages.
#include "holders.h"

#include <sched.h>
#include <sys/mount.h>

int main(void)
{
	cpu_set_t first;
	setvbuf(stdout, NULL, _IOLBF, 0);
	make_table();
	make_holdings();
	mount_all();
	load_modules();
	open_agent();
	hold_gates_still();
	wait_for_movable_node();
	attach_disks();
	raise_loopback();
	prepare_report();
	// The second one is left to the scenario of batches, which must not be emptied.
	CPU_ZERO(&first);
	CPU_SET(0, &first);
	check(sched_setaffinity(0, sizeof(first), &first) == 0, "sched_setaffinity");
	for (const struct scenario *const *table = tables; *table; table++)
		for (const struct scenario *s = *table; s->name; s++)
			run(s, bind_to_movable_node);
	print_holdings();
	report();
	agent();
}
