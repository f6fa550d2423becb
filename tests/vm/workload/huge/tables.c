// SPDX-License-Identifier: LGPL-2.1-or-later
// Large folios of every kind, whole and in parts, and huge pages in every state that need no machine of their own.
#include "../lab.h"

extern const struct scenario scenarios_hugetlb[], scenarios_thp[], scenarios_mthp[], scenarios_shared[];

const struct scenario *const tables[] = {scenarios_hugetlb, scenarios_thp, scenarios_mthp, scenarios_shared, NULL};
