// SPDX-License-Identifier: LGPL-2.1-or-later
// After READY: pid 1 serves commands on the second serial port, if there is one, and otherwise sleeps.
#include "lab.h"

static int port = -1;

void open_agent(void)
{
	port = open("/dev/ttyS1", O_RDWR | O_NOCTTY | O_CLOEXEC);
}

void agent(void)
{
	// Not from the heap: until a command comes, nothing may change any more.
	static char line[PAGE] = "x";
	// Without the hardware the device node opens, but reading from it fails.
	while (port >= 0 && read(port, line, sizeof(line)) > 0)
		dprintf(port, "ERROR no such command\n");
	for (;;)
		pause();
}
