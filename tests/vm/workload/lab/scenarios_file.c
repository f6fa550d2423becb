// SPDX-License-Identifier: LGPL-2.1-or-later
// The page cache: tmpfs, ext4 and ramfs, mapped and not.
#include "../lab.h"

#include <sys/syscall.h>

enum mapped { MAPPED, UNMAPPED };

static int new_file(const char *directory, int pages)
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

// The file stays open, so that its pages stay in the cache and have an owner.
static void *mark_file(int fd, int pages, enum mapped mapped, const char *kind)
{
	char *region = mmap(NULL, pages * PAGE, PROT_READ, MAP_SHARED, fd, 0);
	uint64_t pfn[16];
	check(region != MAP_FAILED, "mmap of a file");
	touch(region, pages * PAGE);
	for (int i = 0; i < pages; i++) {
		pfn[i] = pfn_of(region + i * PAGE);
		if (mapped == MAPPED)
			mark(kind, region, i, 0, "");
	}
	if (mapped == MAPPED)
		return region;
	munmap(region, pages * PAGE);
	for (int i = 0; i < pages; i++)
		mark_pfn(kind, pfn[i], i, 0, "");
	return NULL;
}

static void tmpfs_mapped(void)
{
	mark_file(new_file("/tmpfs", 4), 4, MAPPED, "shmem");
}

static void tmpfs_unmapped(void)
{
	mark_file(new_file("/tmpfs", 4), 4, UNMAPPED, "shmem");
}

static char *map_tmpfs_thp(void)
{
	int fd = new_file("/tmpfs-huge", 0);
	check(ftruncate(fd, THP) == 0, "ftruncate");
	char *region = aligned_region(THP, THP);
	check(mmap(region, THP, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == region, "mmap of a file");
	check(madvise(region, THP, MADV_HUGEPAGE) == 0, "madvise(MADV_HUGEPAGE)");
	fill(region, THP);
	check(kpageflags(pfn_of(region)) & KPF_THP, "no tmpfs THP was allocated");
	return region;
}

static void tmpfs_thp_mapped(void)
{
	char *region = map_tmpfs_thp();
	mark_folio("shmem-thp", region, pfn_of(region), 512, 0, "");
}

static void tmpfs_thp_unmapped(void)
{
	char *region = map_tmpfs_thp();
	uint64_t head = pfn_of(region);
	munmap(region, THP);
	mark_folio("shmem-thp", NULL, head, 512, 0, "");
}

static void tmpfs_thp_pte(void)
{
	char *region = map_tmpfs_thp();
	uint64_t head = pfn_of(region);
	check(mprotect(region + 7 * PAGE, PAGE, PROT_READ) == 0, "mprotect");
	// A file's PMD is dropped rather than split: only what is touched afterwards is mapped again.
	touch(region, THP / 2);
	mark_folio("shmem-thp", region, head, 512, 0, "");
}

static void tmpfs_thp_held(void)
{
	char *region = map_tmpfs_thp();
	hold(region + 3 * PAGE);
	mark_folio("shmem-thp", region, pfn_of(region), 512, 1, "page 3");
}

static int clean_ext4_file(void)
{
	int fd = new_file("/ext4", 4);
	check(fsync(fd) == 0, "fsync");
	return fd;
}

static void ext4_clean_mapped(void)
{
	mark_file(clean_ext4_file(), 4, MAPPED, "file");
}

static void ext4_clean_unmapped(void)
{
	mark_file(clean_ext4_file(), 4, UNMAPPED, "file");
}

static void ext4_dirty_mapped(void)
{
	mark_file(new_file("/ext4", 4), 4, MAPPED, "file");
}

static void ext4_dirty_unmapped(void)
{
	mark_file(new_file("/ext4", 4), 4, UNMAPPED, "file");
}

// One large write, which newer kernels put into one large folio.
static void ext4_large(void)
{
	static char data[16 * PAGE];
	int fd = new_file("/ext4", 0);
	fill(data, sizeof(data));
	check(write(fd, data, sizeof(data)) == (ssize_t)sizeof(data), "write");
	mark_file(fd, 16, MAPPED, "file");
}

// Pages that were only ever read have no buffers, unlike those that were written.
static int file_from_image(const char *path)
{
	int fd = open(path, O_RDONLY);
	check(fd >= 0, path);
	return fd;
}

static void ext4_read_mapped(void)
{
	mark_file(file_from_image("/ext4/mapped"), 4, MAPPED, "file");
}

static void ext4_read_unmapped(void)
{
	mark_file(file_from_image("/ext4/unmapped"), 4, UNMAPPED, "file");
}

static void ext4_held(void)
{
	int fd = file_from_image("/ext4/held");
	int ends[2];
	loff_t offset = PAGE;
	char *region = mmap(NULL, 4 * PAGE, PROT_READ, MAP_SHARED, fd, 0);
	check(region != MAP_FAILED, "mmap of a file");
	touch(region, 4 * PAGE);
	check(pipe(ends) == 0 && splice(fd, &offset, ends[1], NULL, PAGE, 0) == (ssize_t)PAGE, "splice");
	// Where the cache holds large folios, the neighbours may share the one that is held.
	uint64_t held = pfn_of(region + PAGE);
	for (int i = 0; i < 4; i++) {
		uint64_t pfn = pfn_of(region + i * PAGE);
		uint64_t compound = kpageflags(pfn) & kpageflags(held) & (KPF_COMPOUND_HEAD | KPF_COMPOUND_TAIL);
		mark("file", region, i, i == 1 || compound, i == 1 ? "spliced" : "neighbour");
	}
}

static void ramfs_mapped(void)
{
	mark_file(new_file("/ramfs", 4), 4, MAPPED, "file");
}

static void ramfs_unmapped(void)
{
	mark_file(new_file("/ramfs", 4), 4, UNMAPPED, "file");
}

const struct scenario scenarios_file[] = {
	{"tmpfs_mapped", tmpfs_mapped},
	{"tmpfs_unmapped", tmpfs_unmapped},
	{"tmpfs_thp_mapped", tmpfs_thp_mapped},
	{"tmpfs_thp_unmapped", tmpfs_thp_unmapped},
	{"tmpfs_thp_pte", tmpfs_thp_pte},
	{"tmpfs_thp_held", tmpfs_thp_held},
	{"ext4_clean_mapped", ext4_clean_mapped},
	{"ext4_clean_unmapped", ext4_clean_unmapped},
	{"ext4_dirty_mapped", ext4_dirty_mapped},
	{"ext4_dirty_unmapped", ext4_dirty_unmapped},
	{"ext4_large", ext4_large},
	{"ext4_read_mapped", ext4_read_mapped},
	{"ext4_read_unmapped", ext4_read_unmapped},
	{"ext4_held", ext4_held},
	{"ramfs_mapped", ramfs_mapped},
	{"ramfs_unmapped", ramfs_unmapped},
	{0},
};
