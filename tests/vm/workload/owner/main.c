// SPDX-License-Identifier: LGPL-2.1-or-later
// Another pid 1: a few pages, and what the kernel's own file says of who allocated them. See tests/vm/page_owner.py.
#include "../lab.h"

#include <sys/prctl.h>

#define FILE_OF_OWNERS "/sys/kernel/debug/page_owner"

// The file's position is a page frame: a read gives the first one from there on that is allocated.
static void tell(const char *name, uint64_t pfn)
{
	char text[PAGE];
	int fd = open(FILE_OF_OWNERS, O_RDONLY);
	check(fd >= 0, FILE_OF_OWNERS);
	ssize_t size = pread(fd, text, sizeof(text) - 1, pfn);
	check(size > 0, "no page owner");
	text[size] = 0;
	close(fd);
	printf("OWNER %s %#lx %d %zd\n%s\n\n", name, (unsigned long)pfn, getpid(), size, text);
}

static void hold_some(void *unused)
{
	(void)unused;
	prctl(PR_SET_NAME, "owner \033[1m<b>");
	bind_to_movable_node();
	char *base = base_pages(2), *huge = thp();
	hold(base + PAGE);
	hold(huge + 3 * PAGE);
	tell("base", pfn_of(base));
	tell("held", pfn_of(base + PAGE));
	tell("thp", pfn_of(huge));
	tell("stack", pfn_of(__builtin_frame_address(0)));
	// Whatever the kernel has there.
	tell("kernel", 0x4000);
}

int main(void)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	make_table();
	mount_all();
	load_modules();
	hold_gates_still();
	wait_for_movable_node();
	in_child(hold_some, NULL);
	printf("READY\n");
	for (;;)
		pause();
}
