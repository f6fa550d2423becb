// SPDX-License-Identifier: LGPL-2.1-or-later
// A pool of huge pages, for which there is no more room on its node.
#include "../lab.h"

extern const struct scenario scenarios_pool[];

const struct scenario *const tables[] = {scenarios_pool, NULL};
