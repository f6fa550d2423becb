// SPDX-License-Identifier: LGPL-2.1-or-later
// Asking the kernel about pages.
#include "lab.h"

static uint64_t read_u64(const char *path, uint64_t index)
{
	uint64_t value = 0;
	int fd = open(path, O_RDONLY);
	if (fd >= 0) {
		if (pread(fd, &value, sizeof(value), index * sizeof(value)) != sizeof(value))
			value = 0;
		close(fd);
	}
	return value;
}

uint64_t pfn_of_pid(int pid, uintptr_t vaddr)
{
	char path[64];
	snprintf(path, sizeof(path), "/proc/%d/pagemap", pid);
	uint64_t entry = read_u64(path, vaddr / PAGE);
	// Bit 63: present. Otherwise the low bits may be a swap entry.
	return entry >> 63 ? entry & ((1ULL << 55) - 1) : 0;
}

uint64_t pfn_of(void *page)
{
	return pfn_of_pid(getpid(), (uintptr_t)page);
}

uint64_t kpageflags(uint64_t pfn)
{
	return read_u64("/proc/kpageflags", pfn);
}

uint64_t kpagecount(uint64_t pfn)
{
	return read_u64("/proc/kpagecount", pfn);
}

void drain(void)
{
	// move_pages(2) drains before it looks at its arguments; the page asked for is already where it should go.
	static char mine[2 * PAGE];
	void *page = (void *)(((uintptr_t)mine + PAGE) & ~(PAGE - 1));
	*(volatile char *)page = 1;
	int status = -1;
	check(syscall(SYS_move_pages, 0, 1UL, &page, NULL, &status, 0) == 0 && status >= 0, "cannot ask for a page's node");
	int node = status;
	check(syscall(SYS_move_pages, 0, 1UL, &page, &node, &status, 0) >= 0, "cannot drain by move_pages");
}
