// SPDX-License-Identifier: LGPL-2.1-or-later
// What the scenarios of this program share.
#include "pins.h"

#include <linux/userfaultfd.h>
#include <sys/ioctl.h>

void use_normal_zone(void)
{
	bind_to_node(BOOT_NODE);
}

const char *place_of(void *page)
{
	int node = -1;
	check(syscall(SYS_move_pages, 0, 1UL, &page, NULL, &node, 0) == 0 && node >= 0, "cannot ask for a page's node");
	return node == MOVABLE_NODE ? "movable node" : "node 0";
}

void expect_settled(uint64_t pfn, uint64_t set, uint64_t clear, const char *what)
{
	check(pfn != 0, what);
	drain();
	expect(pfn, set, clear, what);
}

int file_of(const char *directory, int pages)
{
	static char page[PAGE];
	char path[64];
	snprintf(path, sizeof(path), "%s/%s", directory, table->scenario);
	int fd = open(path, O_RDWR | O_CREAT | O_EXCL, 0600);
	check(fd >= 0, path);
	for (int i = 0; i < pages; i++) {
		fill(page, PAGE);
		check(write(fd, page, PAGE) == (ssize_t)PAGE, "write");
	}
	return fd;
}

char *map_file(int fd, int pages)
{
	char *region = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	check(region != MAP_FAILED, "mmap of a file");
	touch(region, pages * PAGE);
	return region;
}

int userfault(void *region, size_t size)
{
	// Not to be waited for by poll(2) unless reading does not wait.
	int fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	struct uffdio_api api = {.api = UFFD_API};
	struct uffdio_register range = {
		.range = {.start = (uintptr_t)region, .len = size},
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};
	check(fd >= 0, "userfaultfd");
	check(ioctl(fd, UFFDIO_API, &api) == 0, "UFFDIO_API");
	check(ioctl(fd, UFFDIO_REGISTER, &range) == 0, "UFFDIO_REGISTER");
	return fd;
}
