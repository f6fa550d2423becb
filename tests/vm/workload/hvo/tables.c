// SPDX-License-Identifier: LGPL-2.1-or-later
// Huge pages without most of their struct pages, on a node that has movable memory only.
#include "../lab.h"

extern const struct scenario scenarios_hvo[];

const struct scenario *const tables[] = {scenarios_hvo, NULL};
