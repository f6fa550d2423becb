// SPDX-License-Identifier: LGPL-2.1-or-later
// Folios that somebody took off the LRU and cannot go on with: each waits for a page of its own to be written.
#include "../lab.h"

extern const struct scenario scenarios_isolated[];

const struct scenario *const tables[] = {scenarios_isolated, NULL};
