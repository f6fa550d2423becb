// SPDX-License-Identifier: LGPL-2.1-or-later
// Pages of many owners: filesystems, block devices, drivers; and what waits on a CPU for its place on the LRU.
#include "../lab.h"

extern const struct scenario scenarios_cache[], scenarios_drivers[], scenarios_batches[];

// The batches come last: whatever runs after them may empty them.
const struct scenario *const tables[] = {scenarios_cache, scenarios_drivers, scenarios_batches, NULL};
