// SPDX-License-Identifier: LGPL-2.1-or-later
// pid 1: sets up, runs each scenario in a process of its own, tells what there is, then sleeps.
#include "lab.h"

int main(void)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	make_table();
	mount_all();
	load_modules();
	open_agent();
	hold_gates_still();
	wait_for_movable_node();
	attach_disks();
	prepare_report();
	for (const struct scenario *const *table = tables; *table; table++)
		for (const struct scenario *s = *table; s->name; s++) {
			if (&spread_out)
				begin_anew();
			run(s, bind_to_movable_node);
		}
	if (&spread_out)
		give_back();
	report();
	agent();
}
