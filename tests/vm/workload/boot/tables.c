// SPDX-License-Identifier: LGPL-2.1-or-later
// Movable pages in boot memory, beside a node of movable memory only.
#include "../lab.h"

extern const struct scenario scenarios_boot[];

const struct scenario *const tables[] = {scenarios_boot, NULL};
