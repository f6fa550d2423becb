// SPDX-License-Identifier: LGPL-2.1-or-later
// What takes a machine with much memory: a CMA area of 1 GiB, and huge pages of that size.
#include "../lab.h"

extern const struct scenario scenarios_cma[], scenarios_gigantic[];

const struct scenario *const tables[] = {scenarios_cma, scenarios_gigantic, NULL};
