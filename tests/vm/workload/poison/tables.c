// SPDX-License-Identifier: LGPL-2.1-or-later
// Pages whose memory is said to be broken, and what stays behind of them.
#include "../lab.h"

extern const struct scenario scenarios_poison[];

const struct scenario *const tables[] = {scenarios_poison, NULL};

const int spread_out = 1;
