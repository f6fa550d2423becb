// SPDX-License-Identifier: LGPL-2.1-or-later
// What most tests are about: memory of all kinds, and nothing that never ends.
#include "../lab.h"

extern const struct scenario scenarios_anon[], scenarios_held[], scenarios_file[], scenarios_swap[], scenarios_special[],
	scenarios_last[];

const struct scenario *const tables[] = {scenarios_anon, scenarios_held,    scenarios_file, scenarios_swap,
					 scenarios_special, scenarios_last, NULL};
