// SPDX-License-Identifier: LGPL-2.1-or-later
// Pages with holders of every kind that a guest can show by itself, told apart by process and descriptor.
#include "../lab.h"

extern const struct scenario scenarios_disks[], scenarios_closing[], scenarios_memory[], scenarios_pipes[],
	scenarios_sockets[], scenarios_virt[], scenarios_kernel_io[], scenarios_kernel_disks[], scenarios_kernel_sockets[],
	scenarios_lost[], scenarios_last[];

const struct scenario *const tables[] = {
	scenarios_disks,	  scenarios_closing,   scenarios_memory,       scenarios_pipes,
	scenarios_sockets,	  scenarios_virt,      scenarios_kernel_io,    scenarios_kernel_disks,
	scenarios_kernel_sockets, scenarios_lost,      scenarios_last,	      NULL,
};
