// SPDX-License-Identifier: LGPL-2.1-or-later
// Pages that wait for a device or a server that never answers. Whoever waits for one of them waits for ever.
#include "../lab.h"

extern const struct scenario scenarios_stuck[];

const struct scenario *const tables[] = {scenarios_stuck, NULL};
