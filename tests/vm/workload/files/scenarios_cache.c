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
	check(write_file(setting, "30") == 0, setting);
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

const struct scenario scenarios_cache[] = {
	{"bdev_busy", bdev_busy},
	{"bdev_idle", bdev_idle},
	{"romfs_clean", romfs_clean},
	{"vfat_dirty", vfat_dirty},
	{"fuse_clean", fuse_clean},
	{"fuse_dirty", fuse_dirty},
	{0},
};
