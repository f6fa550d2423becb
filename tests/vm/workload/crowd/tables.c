// SPDX-License-Identifier: LGPL-2.1-or-later
// Many processes with many files, most of which hold pages.
#include "../lab.h"

extern const struct scenario scenarios_crowd[];

const struct scenario *const tables[] = {scenarios_crowd, NULL};
