// SPDX-License-Identifier: LGPL-2.1-or-later
// Regions of memory, and references on them.
#include "lab.h"

#include <linux/mempolicy.h>
#include <sys/uio.h>
#include <sys/wait.h>

void bind_to_node(int node)
{
	unsigned long nodes = 1UL << node;
	check(syscall(SYS_set_mempolicy, MPOL_BIND, &nodes, 8 * sizeof(nodes)) == 0, "set_mempolicy");
}

void bind_to_movable_node(void)
{
	bind_to_node(MOVABLE_NODE);
}

void *aligned_region(size_t size, size_t align)
{
	char *region = mmap(NULL, size + align, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	check(region != MAP_FAILED, "mmap");
	char *start = (char *)(((uintptr_t)region + align - 1) & ~(align - 1));
	// The rest goes away: it could merge with another mapping and change what a later call splits.
	if (start > region)
		munmap(region, start - region);
	if (region + align > start)
		munmap(start + size, region + align - start);
	return start;
}

void *base_pages(int count)
{
	void *region = aligned_region(count * PAGE, THP);
	fill(region, count * PAGE);
	return region;
}

void *thp(void)
{
	void *region = aligned_region(THP, THP);
	check(madvise(region, THP, MADV_HUGEPAGE) == 0, "madvise(MADV_HUGEPAGE)");
	fill(region, THP);
	check(kpageflags(pfn_of(region)) & KPF_THP, "no THP was allocated");
	return region;
}

void fill(void *region, size_t size)
{
	for (size_t page = 0; page < size / PAGE; page++)
		snprintf((char *)region + page * PAGE, PAGE, "%s %d page %zu", table->scenario, getpid(), page);
}

void touch(void *region, size_t size)
{
	for (size_t offset = 0; offset < size; offset += PAGE)
		(void)*((volatile char *)region + offset);
}

void hold(void *page)
{
	int ends[2];
	struct iovec piece = {page, PAGE};
	check(pipe(ends) == 0 && vmsplice(ends[1], &piece, 1, 0) == (ssize_t)PAGE, "vmsplice");
}

void in_child(void (*run)(void *), void *argument)
{
	int before = table->children;
	pid_t pid = fork();
	if (pid == 0) {
		run(argument);
		__sync_fetch_and_add(&table->children, 1);
		for (;;)
			pause();
	}
	while (table->children == before) {
		int status;
		if (waitpid(pid, &status, WNOHANG) == pid) {
			char why[sizeof(table->why)] = "a child process died";
			if (table->state == FAILED)
				memcpy(why, table->why, sizeof(why));
			fail(why);
		}
		usleep(1000);
	}
}
