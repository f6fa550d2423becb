// SPDX-License-Identifier: LGPL-2.1-or-later
// After READY: pid 1 serves commands on the second serial port, if there is one, and otherwise sleeps.
#include "lab.h"

void agent(void)
{
	FILE *port = fopen("/dev/ttyS1", "r+");
	char line[256];
	// Without the hardware the device node opens, but reading from it fails.
	while (port && fgets(line, sizeof(line), port))
		fprintf(port, "ERROR no such command\n");
	for (;;)
		pause();
}
