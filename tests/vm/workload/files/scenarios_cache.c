// SPDX-License-Identifier: LGPL-2.1-or-later
// The page cache of block devices, and of file systems that have no way of their own to move pages.
#include "../fuse.h"
#include "../lab.h"

#include <sys/mount.h>
#include <sys/sysmacros.h>

static char *map_file(const char *path, int flags, int first, int pages)
{
	int fd = open(path, flags);
	check(fd >= 0, path);
	int protection = flags == O_RDWR ? PROT_READ | PROT_WRITE : PROT_READ;
	char *region = mmap(NULL, pages * PAGE, protection, MAP_SHARED, fd, first * PAGE);
	check(region != MAP_FAILED, "mmap of a file");
	touch(region, pages * PAGE);
	return region;
}

static void mark_clean(char *region, int pages)
{
	for (int i = 0; i < pages; i++) {
		check(!(kpageflags(pfn_of(region + i * PAGE)) & KPF_DIRTY), "the page is dirty");
		mark("file", region, i, 0, "clean");
	}
}

static void mark_dirty(char *region, int pages)
{
	for (int i = 0; i < pages; i++) {
		check(kpageflags(pfn_of(region + i * PAGE)) & KPF_DIRTY, "the page is not dirty");
		mark("file", region, i, 0, "dirty");
	}
}

// A device that has not written anything yet has no share of what may be dirty: the kernel starts to write at once.
static void let_be_dirty(const char *path)
{
	char setting[64];
	struct stat status;
	check(stat(path, &status) == 0, path);
	unsigned int number[] = {major(status.st_dev), minor(status.st_dev)};
	snprintf(setting, sizeof(setting), "/sys/class/bdi/%u:%u/max_ratio", number[0], number[1]);
	check(write_file(setting, "100") == 0, setting);
	snprintf(setting, sizeof(setting), "/sys/class/bdi/%u:%u/min_ratio", number[0], number[1]);
	check(write_file(setting, "20") == 0, setting);
}

// A mounted ext4 keeps the buffers of its superblock and of its group descriptors.
static void bdev_busy(void)
{
	char *region = map_file("/dev/loop0", O_RDONLY, 0, 2);
	mark("file", region, 0, 0, "superblock");
	mark("file", region, 1, 0, "group descriptors");
}

static void bdev_idle(void)
{
	mark_clean(map_file("/dev/loop0", O_RDONLY, 1900, 2), 2);
}

static void romfs_clean(void)
{
	attach_loop(2, "/romfs.img");
	mkdir("/romfs", 0755);
	check(mount("/dev/loop2", "/romfs", "romfs", MS_RDONLY, NULL) == 0, "/romfs");
	mark_clean(map_file("/romfs/file", O_RDONLY, 0, 4), 4);
}

// Up to 6.1 without a way to move dirty pages but to write them.
static void vfat_dirty(void)
{
	static char data[PAGE];
	attach_loop(3, "/vfat.img");
	mkdir("/vfat", 0755);
	check(mount("/dev/loop3", "/vfat", "vfat", 0, "codepage=437,iocharset=ascii") == 0, "/vfat");
	let_be_dirty("/vfat");
	int fd = open("/vfat/file", O_RDWR | O_CREAT, 0600);
	check(fd >= 0, "/vfat/file");
	for (int i = 0; i < 2; i++) {
		fill(data, PAGE);
		check(write(fd, data, PAGE) == (ssize_t)PAGE, "write");
	}
	mark_dirty(map_file("/vfat/file", O_RDWR, 0, 2), 2);
}

static void fuse_clean(void)
{
	fuse_mount("/fuse-clean");
	mark_clean(map_file("/fuse-clean/file", O_RDONLY, 0, 4), 4);
}

static void fuse_dirty(void)
{
	fuse_mount("/fuse-dirty");
	let_be_dirty("/fuse-dirty");
	char *region = map_file("/fuse-dirty/file", O_RDWR, 0, 4);
	fill(region, 2 * PAGE);
	mark_dirty(region, 2);
}

// A folio has to have whole blocks of its file system.
static void ext4_min_order(void)
{
	static char block[4 * PAGE];
	attach_loop(4, "/ext4-16k.img");
	mkdir("/ext4-16k", 0755);
	if (mount("/dev/loop4", "/ext4-16k", "ext4", 0, NULL))
		lacks("no blocks that are larger than a page");
	int fd = open("/ext4-16k/file", O_RDWR | O_CREAT, 0600);
	check(fd >= 0, "/ext4-16k/file");
	fill(block, sizeof(block));
	check(write(fd, block, sizeof(block)) == (ssize_t)sizeof(block) && fsync(fd) == 0, "write");
	char *region = map_file("/ext4-16k/file", O_RDONLY, 0, 4);
	uint64_t head = pfn_of(region);
	check(kpageflags(head) & KPF_COMPOUND_HEAD, "a block is not a folio");
	mark_folio("file", region, head, 4, 0, "");
}

static int open_btrfs(const char *name)
{
	char path[96];
	snprintf(path, sizeof(path), "/btrfs/%s", name);
	int fd = open(path, O_RDWR | O_CREAT, 0600);
	check(fd >= 0, path);
	return fd;
}

static void btrfs_clean(void)
{
	static char data[2 * PAGE];
	attach_loop(5, "/btrfs.img");
	mkdir("/btrfs", 0755);
	// Nothing is to be written but what is asked for.
	check(mount("/dev/loop5", "/btrfs", "btrfs", 0, "commit=100000") == 0, "/btrfs");
	int fd = open_btrfs("clean");
	fill(data, sizeof(data));
	check(write(fd, data, sizeof(data)) == (ssize_t)sizeof(data), "write");
	sync();
	mark_clean(map_file("/btrfs/clean", O_RDONLY, 0, 2), 2);
}

static void btrfs_dirty(void)
{
	static char data[2 * PAGE];
	// As let_be_dirty(), by another name.
	check(write_file("/sys/class/bdi/btrfs-1/max_ratio", "100") == 0, "the share of btrfs");
	check(write_file("/sys/class/bdi/btrfs-1/min_ratio", "30") == 0, "the share of btrfs");
	int fd = open_btrfs("dirty");
	fill(data, sizeof(data));
	check(write(fd, data, sizeof(data)) == (ssize_t)sizeof(data), "write");
	mark_dirty(map_file("/btrfs/dirty", O_RDWR, 0, 2), 2);
}

// A leaf of its tree, found by the name of a file that is new in it.
static void btrfs_tree(void)
{
	char name[65];
	snprintf(name, sizeof(name), "%-32s", "leaf of btrfs");
	snprintf(name + 32, sizeof(name) - 32, "%32s", "of drgn_thp's lab");
	close(open_btrfs(name));
	memset(name, 0, sizeof(name));
	mark_pfn("file", 0, 0, 0, "sig=leaf of btrfs");
}

static char *xfs_file(const char *path, int pages, int flags)
{
	static char data[16 * PAGE];
	int fd = open(path, O_RDWR | O_CREAT, 0600);
	check(fd >= 0, path);
	fill(data, pages * PAGE);
	check(write(fd, data, pages * PAGE) == (ssize_t)(pages * PAGE), "write");
	if (flags == O_RDONLY)
		check(fsync(fd) == 0, "fsync");
	return map_file(path, flags, 0, pages);
}

static void xfs_clean(void)
{
	attach_loop(6, "/xfs.img");
	mkdir("/xfs", 0755);
	check(mount("/dev/loop6", "/xfs", "xfs", 0, NULL) == 0, "/xfs");
	let_be_dirty("/xfs");
	mark_clean(xfs_file("/xfs/clean", 2, O_RDONLY), 2);
}

static void xfs_dirty(void)
{
	mark_dirty(xfs_file("/xfs/dirty", 2, O_RDWR), 2);
}

// Written at once, which newer kernels have a large folio for, with data of the file system's.
static void xfs_large(void)
{
	mark_dirty(xfs_file("/xfs/large", 16, O_RDWR), 16);
}

static void mlocked_kept(void)
{
	check(write_file("/proc/sys/vm/compact_unevictable_allowed", "0") == 0, "compact_unevictable_allowed");
	char *region = base_pages(2);
	check(mlock(region, 2 * PAGE) == 0, "mlock");
	drain();
	mark("anon", region, 0, 0, "");
	mark("anon", region, 1, 0, "");
}

const struct scenario scenarios_cache[] = {
	{"bdev_busy", bdev_busy},
	{"bdev_idle", bdev_idle},
	{"romfs_clean", romfs_clean},
	{"vfat_dirty", vfat_dirty},
	{"fuse_clean", fuse_clean},
	{"fuse_dirty", fuse_dirty},
	{"ext4_min_order", ext4_min_order},
	{"btrfs_clean", btrfs_clean},
	{"btrfs_dirty", btrfs_dirty},
	{"btrfs_tree", btrfs_tree},
	{"xfs_clean", xfs_clean},
	{"xfs_dirty", xfs_dirty},
	{"xfs_large", xfs_large},
	{"mlocked_kept", mlocked_kept},
	{0},
};
