// SPDX-License-Identifier: LGPL-2.1-or-later
// What pid 1 does before the first scenario.
#include "lab.h"

#include <linux/loop.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/swap.h>

int write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);
	if (fd < 0)
		return -1;
	ssize_t done = write(fd, text, strlen(text));
	close(fd);
	return done == (ssize_t)strlen(text) ? 0 : -1;
}

int read_file(const char *path, char *buffer, size_t size)
{
	int fd = open(path, O_RDONLY);
	if (fd < 0)
		return -1;
	ssize_t done = read(fd, buffer, size - 1);
	close(fd);
	buffer[done > 0 ? done : 0] = 0;
	return done < 0 ? -1 : 0;
}

static void mount_one(const char *type, const char *path, const char *options)
{
	mkdir(path, 0755);
	if (mount(type, path, type, 0, options))
		fail(path);
}

void mount_all(void)
{
	mount_one("proc", "/proc", NULL);
	mount_one("sysfs", "/sys", NULL);
	mount_one("devtmpfs", "/dev", NULL);
	mount_one("debugfs", "/sys/kernel/debug", NULL);
	mount_one("tmpfs", "/tmpfs", "huge=never");
	mount_one("tmpfs", "/tmpfs-huge", "huge=always");
	mount_one("ramfs", "/ramfs", NULL);
}

void load_modules(void)
{
	// The harness numbered them in the order in which they depend on each other.
	for (int i = 0;; i++) {
		char path[32];
		snprintf(path, sizeof(path), "/modules/%02d.ko", i);
		int fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			return;
		if (syscall(SYS_finit_module, fd, "", 0))
			fail(path);
		close(fd);
	}
}

void hold_gates_still(void)
{
	// Between the moment when the guest looks at its pages and the dump, nothing may move. Not every kernel has each.
	static const char *const settings[][2] = {
		{"/proc/sys/kernel/numa_balancing", "0"},
		// Not 0: that wakes the flusher at every first dirty page, and a new disk's share of dirty memory is none.
		{"/proc/sys/vm/dirty_writeback_centisecs", "8640000"},
		{"/proc/sys/vm/dirty_expire_centisecs", "8640000"},
		{"/proc/sys/vm/dirty_background_ratio", "80"},
		{"/proc/sys/vm/dirty_ratio", "90"},
		{"/proc/sys/vm/compaction_proactiveness", "0"},
		{"/proc/sys/vm/swappiness", "100"},
		{"/sys/kernel/mm/ksm/run", "0"},
		{"/sys/kernel/mm/transparent_hugepage/khugepaged/scan_sleep_millisecs", "4294967295"},
		{"/sys/kernel/mm/transparent_hugepage/khugepaged/alloc_sleep_millisecs", "4294967295"},
		{"/sys/kernel/mm/transparent_hugepage/khugepaged/pages_to_scan", "1"},
		{"/sys/kernel/mm/transparent_hugepage/khugepaged/max_ptes_none", "0"},
		{"/sys/kernel/mm/transparent_hugepage/khugepaged/max_ptes_swap", "0"},
		{"/sys/kernel/mm/transparent_hugepage/defrag", "madvise"},
		{"/sys/kernel/mm/transparent_hugepage/shmem_enabled", "advise"},
		{"/sys/kernel/mm/transparent_hugepage/use_zero_page", "0"},
		{"/sys/kernel/mm/transparent_hugepage/hugepages-64kB/enabled", "madvise"},
	};
	for (size_t i = 0; i < ARRAY_SIZE(settings); i++)
		write_file(settings[i][0], settings[i][1]);
	if (write_file("/sys/kernel/mm/transparent_hugepage/enabled", "madvise"))
		fail("no transparent huge pages");
}

void wait_for_movable_node(void)
{
	char text[256];
	const char *plugged = getenv("plugged_mib");
	if (!plugged)
		fail("nobody says how much memory to wait for");
	for (int tries = 0; tries < 3000; tries++) {
		char *total = NULL;
		if (read_file("/sys/devices/system/node/node1/meminfo", text, sizeof(text)) == 0)
			total = strstr(text, "MemTotal:");
		if (total && strtoul(total + strlen("MemTotal:"), NULL, 10) >= strtoul(plugged, NULL, 10) << 10)
			return;
		usleep(20000);
	}
	fail("the hot-plugged memory did not come online");
}

// Memory-backed, but no SWP_SYNCHRONOUS_IO device like brd or zram: on those, swapping in bypasses the swap cache.
void attach_loop(int number, const char *backing)
{
	char path[32];
	snprintf(path, sizeof(path), "/dev/loop%d", number);
	int loop = -1;
	int file = open(backing, O_RDWR | O_CLOEXEC);
	for (int tries = 0; loop < 0 && tries < 500; tries++, usleep(10000))
		loop = open(path, O_RDWR | O_CLOEXEC);
	if (file < 0 || loop < 0 || ioctl(loop, LOOP_SET_FD, file))
		fail(path);
	close(file);
	close(loop);
}

static void make_swap(const char *path, unsigned int pages)
{
	static union {
		char bytes[PAGE];
		struct {
			char boot[1024];
			uint32_t version, last_page, bad_pages;
		};
	} header;
	header.version = 1;
	header.last_page = pages - 1;
	memcpy(header.bytes + PAGE - 10, "SWAPSPACE2", 10);
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0 || ftruncate(fd, (off_t)pages * PAGE) || write(fd, &header, PAGE) != (ssize_t)PAGE)
		fail(path);
	close(fd);
}

void attach_disks(void)
{
	attach_loop(0, "/ext4.img");
	mkdir("/ext4", 0755);
	if (mount("/dev/loop0", "/ext4", "ext4", 0, NULL))
		fail("/ext4");
	// Much larger than what is swapped out: a swap area more than half full gives slots back on reading.
	make_swap("/ramfs/swap", 16384);
	attach_loop(1, "/ramfs/swap");
	if (swapon("/dev/loop1", 0))
		fail("swapon");
}
