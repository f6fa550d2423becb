// SPDX-License-Identifier: LGPL-2.1-or-later
// Pages that something outside of mm has a reference on, or a pin, of every kind that a guest can show by itself.
#include "../lab.h"

extern const struct scenario scenarios_longterm[], scenarios_rings[], scenarios_inflight[], scenarios_spliced[],
	scenarios_swapped[];

const struct scenario *const tables[] = {scenarios_longterm, scenarios_rings,   scenarios_inflight,
					 scenarios_spliced,  scenarios_swapped, NULL};

const int spread_out = 1;
