// SPDX-License-Identifier: LGPL-2.1-or-later
// Pages that belong to a driver.
#include "../lab.h"

#include <sched.h>

#define ZRAM_PAGES 4
#define BALLOON_PAGES 1024

// What cannot be compressed is stored as it is, a page for a page, by which it is found. The other copies have to go:
// ours, and that in the buffer of the compressor, whose next pages take its place.
static void zram(void)
{
	char *region = base_pages(2 * ZRAM_PAGES), statistics[256];
	cpu_set_t first;
	CPU_ZERO(&first);
	CPU_SET(0, &first);
	check(sched_setaffinity(0, sizeof(first), &first) == 0, "sched_setaffinity");
	check(write_file("/sys/block/zram0/disksize", "16M") == 0, "the size of a zram");
	int fd = open("/dev/zram0", O_RDWR | O_DIRECT);
	check(fd >= 0, "/dev/zram0");
	srandom(1);
	for (size_t i = 0; i < 2 * ZRAM_PAGES * PAGE; i++)
		region[i] = random() >> 8;
	for (int i = 0; i < ZRAM_PAGES; i++) {
		// In two steps: in one, the whole of it would be left on our stack.
		char text[40];
		snprintf(text, sizeof(text), "%-32s", "zram page");
		memcpy(region + i * PAGE, text, 32);
		snprintf(text, sizeof(text), "%32s", "of drgn_thp's lab");
		memcpy(region + i * PAGE + 32, text, 32);
	}
	for (int i = 0; i < 2 * ZRAM_PAGES; i++)
		check(pwrite(fd, region + i * PAGE, PAGE, i * PAGE) == (ssize_t)PAGE, "writing to a zram");
	memset(region, 0, 2 * ZRAM_PAGES * PAGE);
	unsigned long huge = 0;
	check(read_file("/sys/block/zram0/mm_stat", statistics, sizeof(statistics)) == 0, "mm_stat");
	sscanf(statistics, "%*u %*u %*u %*u %*u %*u %*u %lu", &huge);
	check(huge >= 2 * ZRAM_PAGES, "the pages were compressed");
	mark_pfn("zsmalloc", 0, 0, 0, "sig=zram page");
}

// Counts the pages between two frames that are offline, and notes the first few.
static int offline_pages(uint64_t start, uint64_t end, uint64_t *pfns, int wanted)
{
	static uint64_t flags[16 << 10];
	int found = 0, fd = open("/proc/kpageflags", O_RDONLY);
	ssize_t got;
	for (uint64_t at = start; at < end && (got = pread(fd, flags, sizeof(flags), at * 8)) > 0; at += got / 8)
		for (ssize_t i = 0; i < got / 8; i++)
			if ((flags[i] & (KPF_OFFLINE | KPF_NOPAGE)) == KPF_OFFLINE && found++ < wanted)
				pfns[found - 1] = at + i;
	close(fd);
	return found;
}

// The host wants memory back, which is more than the guest can ask for by itself.
static void balloon(void)
{
	uint64_t pfns[4];
	int found = offline_pages(0, HOTPLUG_PFN, pfns, ARRAY_SIZE(pfns));
	check(!found, "there are offline pages before the balloon is inflated");
	printf("ASK balloon\n");
	for (int tries = 0; found < BALLOON_PAGES && tries < 5000; tries++, usleep(10000))
		found = offline_pages(0, HOTPLUG_PFN, pfns, ARRAY_SIZE(pfns));
	check(found == BALLOON_PAGES, "the balloon has another size");
	for (size_t i = 0; i < ARRAY_SIZE(pfns); i++)
		mark_pfn("balloon", pfns[i], i, 0, "");
}

// Sub-blocks of a memory block that is plugged in part.
static void unplugged(void)
{
	uint64_t pfns[4];
	int found = offline_pages(HOTPLUG_PFN, 2 * HOTPLUG_PFN, pfns, ARRAY_SIZE(pfns));
	check(found == (16 << 20) / (int)PAGE, "not as much is unplugged as should be");
	for (size_t i = 0; i < ARRAY_SIZE(pfns); i++)
		mark_pfn("offline", pfns[i], i, 0, "");
}

const struct scenario scenarios_drivers[] = {{"zram", zram}, {"balloon", balloon}, {"unplugged", unplugged}, {0}};
