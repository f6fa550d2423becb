// SPDX-License-Identifier: LGPL-2.1-or-later
// Pages of the common kinds, in boot memory below 4 GiB, and in hot-plugged memory that the kernel may use, too.
#include "../expect.h"

#include <sys/uio.h>

#define NEIGHBOURS 64
#define NODE_PAGES 0x20000UL

static int is_normal(void)
{
	return strstr(table->scenario, "_normal") != NULL;
}

// The name of a scenario says where its pages are to be.
static void settle(void)
{
	bind_to_node(is_normal() ? MOVABLE_NODE : BOOT_NODE);
	char zone[32] = "";
	read_file("/sys/devices/system/memory/memory32/valid_zones", zone, sizeof(zone));
	check(!strcmp(zone, "Normal\n"), "hot-plugged memory is not for the kernel");
}

static void mark_here(const char *kind, void *region, int index, int held, const char *note)
{
	uint64_t pfn = pfn_of((char *)region + index * PAGE);
	check((pfn >= HOTPLUG_PFN) == is_normal(), "a page is in the wrong zone");
	mark(kind, region, index, held, note);
}

static void base(void)
{
	settle();
	char *region = base_pages(4);
	for (int i = 0; i < 4; i++)
		mark_here("anon", region, i, 0, "");
}

// More than a memory block, so that some block holds little else.
static void bulk(void)
{
	settle();
	const int pages = (192 << 20) / PAGE;
	char *region = base_pages(pages);
	for (int i = 0; i < pages; i += 1024)
		mark_here("anon", region, i, 0, "one of many");
}

static void thps(void)
{
	settle();
	for (int i = 0; i < 4; i++) {
		char *region = thp();
		uint64_t head = pfn_of(region);
		check((head >= HOTPLUG_PFN) == is_normal(), "a THP is in the wrong zone");
		mark_folio("anon-thp", region, head, 512, 0, "");
	}
}

static char *map_file(const char *directory, int sync)
{
	char path[64];
	static char page[PAGE];
	snprintf(path, sizeof(path), "%s/%s", directory, table->scenario);
	int fd = open(path, O_RDWR | O_CREAT | O_EXCL, 0600);
	check(fd >= 0, path);
	for (int i = 0; i < 4; i++) {
		fill(page, PAGE);
		check(write(fd, page, PAGE) == (ssize_t)PAGE, "write");
	}
	check(!sync || fsync(fd) == 0, "fsync");
	char *region = mmap(NULL, 4 * PAGE, PROT_READ, MAP_SHARED, fd, 0);
	check(region != MAP_FAILED, "mmap of a file");
	touch(region, 4 * PAGE);
	return region;
}

static void mark_file(const char *kind, char *region)
{
	for (int i = 0; i < 4; i++)
		mark_here(kind, region, i, 0, "");
}

static void tmpfs(void)
{
	settle();
	mark_file("shmem", map_file("/tmpfs", 0));
}

static void ext4_clean(void)
{
	settle();
	mark_file("file", map_file("/ext4", 1));
}

static void ext4_dirty(void)
{
	settle();
	mark_file("file", map_file("/ext4", 0));
}

static char *mergeable(void)
{
	char *region = aligned_region(PAGE, THP);
	memset(region, is_normal() ? 'n' : 'd', PAGE);
	check(madvise(region, PAGE, MADV_MERGEABLE) == 0, "madvise(MADV_MERGEABLE)");
	return region;
}

static void ksm_pair(void)
{
	settle();
	char *one = mergeable(), *two = mergeable();
	write_file("/sys/kernel/mm/ksm/sleep_millisecs", "5");
	write_file("/sys/kernel/mm/ksm/pages_to_scan", "1000");
	check(write_file("/sys/kernel/mm/ksm/run", "1") == 0, "ksmd does not run");
	for (int tries = 0; pfn_of(one) != pfn_of(two) && tries < 6000; tries++)
		usleep(5000);
	write_file("/sys/kernel/mm/ksm/run", "0");
	expect(pfn_of(one), KPF_KSM, 0, "not merged");
	check(pfn_of(one) == pfn_of(two), "the pages were not merged");
	mark_here("ksm", one, 0, 0, "");
	mark_here("ksm", two, 0, 0, "");
}

static void held(void)
{
	settle();
	char *region = base_pages(3);
	hold(region + PAGE);
	mark_here("anon", region, 0, 0, "neighbour");
	mark_here("anon", region, 1, 1, "");
	mark_here("anon", region, 2, 0, "neighbour");
}

static void held_thp(void)
{
	settle();
	char *region = thp();
	hold(region + 3 * PAGE);
	mark_folio("anon-thp", region, pfn_of(region), 512, 1, "page 3");
}

// Found by its content; see scenarios_held.c of the lab.
static void pipe_of_kernel_pages(const char *name, const char *note)
{
	static char signature[2][33];
	struct iovec pieces[PAGE / 32];
	int ends[2];
	settle();
	snprintf(signature[0], sizeof(signature[0]), "%-32s", name);
	snprintf(signature[1], sizeof(signature[1]), "%32s", "of drgn_thp's lab");
	for (size_t i = 0; i < ARRAY_SIZE(pieces); i++)
		pieces[i] = (struct iovec){signature[i % 2], 32};
	check(pipe(ends) == 0 && writev(ends[1], pieces, ARRAY_SIZE(pieces)) == (ssize_t)PAGE, "writev");
	mark_pfn("kernel", 0, 0, 1, note);
}

static void piped(void)
{
	if (is_normal())
		pipe_of_kernel_pages("piped in normal", "sig=piped in normal");
	else
		pipe_of_kernel_pages("piped in dma32", "sig=piped in dma32");
}

// Each page comes with a page table of its own, and with objects of the kernel's.
static void crowded(void)
{
	settle();
	char *region = aligned_region(NEIGHBOURS * THP, THP);
	check(madvise(region, NEIGHBOURS * THP, MADV_NOHUGEPAGE) == 0, "madvise(MADV_NOHUGEPAGE)");
	for (int i = 0; i < NEIGHBOURS; i++) {
		int ends[2];
		check(pipe(ends) == 0, "pipe");
		fill(region + i * THP, PAGE);
		if (i % 16 == 0)
			mark_here("anon", region, i * (THP / PAGE), 0, "");
	}
}

// The first page behind a frame that has a flag, and is not among others.
static uint64_t flagged(uint64_t first, uint64_t last, uint64_t flag, const char *others)
{
	static uint64_t flags[4096];
	uint64_t found = 0;
	int fd = open("/proc/kpageflags", O_RDONLY);
	for (uint64_t at = first; !found && at < last && pread(fd, flags, sizeof(flags), at * 8) > 0; at += 4096)
		for (size_t i = 0; !found && i < ARRAY_SIZE(flags) && at + i < last; i++)
			if ((flags[i] & (flag | KPF_NOPAGE | KPF_COMPOUND_TAIL)) == flag && !(others && others[at + i - first]))
				found = at + i;
	close(fd);
	return found;
}

static void mark_flagged(uint64_t first, uint64_t last, uint64_t flag, const char *others, const char *note)
{
	uint64_t pfn = flagged(first, last, flag, others);
	check(pfn != 0, note);
	mark_pfn("kernel", pfn, 0, 0, note);
}

static void kernels_own(void)
{
	static char others[NODE_PAGES];
	settle();
	const uint64_t first = HOTPLUG_PFN, last = HOTPLUG_PFN + NODE_PAGES;
	for (uint64_t at = first; (at = flagged(at, last, KPF_PGTABLE, NULL)); at++)
		others[at - first] = 1;
	char *region = aligned_region(NEIGHBOURS * THP, THP);
	check(madvise(region, NEIGHBOURS * THP, MADV_NOHUGEPAGE) == 0, "madvise(MADV_NOHUGEPAGE)");
	for (int i = 0; i < NEIGHBOURS; i++)
		region[i * THP] = 1;
	mark_flagged(first, last, KPF_PGTABLE, others, "page table");
	mark_flagged(first, last, KPF_SLAB, NULL, "slab");
	// In the second memory block: the first has more than one zone.
	mark_flagged(0x8000, 0x40000, KPF_RESERVED, NULL, "reserved");
}

const struct scenario scenarios_normal[] = {
	{"base_dma32", base},
	{"base_normal", base},
	{"bulk_dma32", bulk},
	{"bulk_normal", bulk},
	{"thps_dma32", thps},
	{"thps_normal", thps},
	{"tmpfs_dma32", tmpfs},
	{"tmpfs_normal", tmpfs},
	{"ext4_clean_dma32", ext4_clean},
	{"ext4_clean_normal", ext4_clean},
	{"ext4_dirty_dma32", ext4_dirty},
	{"ext4_dirty_normal", ext4_dirty},
	{"ksm_dma32", ksm_pair},
	{"ksm_normal", ksm_pair},
	{"held_dma32", held},
	{"held_normal", held},
	{"held_thp_dma32", held_thp},
	{"held_thp_normal", held_thp},
	{"piped_dma32", piped},
	{"piped_normal", piped},
	{"crowded_dma32", crowded},
	{"crowded_normal", crowded},
	{"kernels_own_normal", kernels_own},
	{0},
};
