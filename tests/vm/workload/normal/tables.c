// SPDX-License-Identifier: LGPL-2.1-or-later
// Movable pages among the kernel's own: on this machine no zone is kept for movable ones.
#include "../lab.h"

extern const struct scenario scenarios_normal[];

const struct scenario *const tables[] = {scenarios_normal, NULL};
