// SPDX-License-Identifier: LGPL-2.1-or-later
// Pages with holders that only a kernel with drivers for everything has.
#include "../lab.h"

extern const struct scenario scenarios_drm[], scenarios_rdma[];

const struct scenario *const tables[] = {scenarios_drm, scenarios_rdma, NULL};
