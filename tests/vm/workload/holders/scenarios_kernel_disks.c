// SPDX-License-Identifier: LGPL-2.1-or-later
// Disks made of disks that do not answer, and buffers that file systems and journals keep in use.
#include "holders.h"

#include <linux/dm-ioctl.h>
#include <linux/major.h>
#include <linux/raid/md_p.h>
#include <linux/raid/md_u.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/sysmacros.h>

#define SECTORS (8UL << 11)

static int open_device(const char *path, int flags)
{
	for (int tries = 0; tries < 5000; tries++, usleep(1000)) {
		int fd = open(path, flags);
		if (fd >= 0)
			return fd;
	}
	fail(path);
}

struct writing {
	int fd;
	char *from;
};

static void *write_now(void *argument)
{
	struct writing *writing = argument;
	pwrite(writing->fd, writing->from, PAGE, 0);
	fail("a write to a silent disk ended");
	return NULL;
}

// Reads one page and writes another one, and neither ever ends.
static void use_for_ever(int fd, const char *note)
{
	static struct writing writing;
	char *pages = base_pages(2);
	holds("aio", read_for_ever(pages, fd), -1, -1, 0);
	writing = (struct writing){fd, pages + PAGE};
	start_thread(write_now, &writing);
	wait_until_stuck(getpid());
	for (int i = 0; i < 2; i++) {
		holds("direct-io", pages + i * PAGE, -1, -1, -1);
		mark("anon", pages, i, 1, note);
	}
}

static void ask_dm(int control, int command, const char *name, const char *target, const char *parameters)
{
	static struct {
		struct dm_ioctl head;
		struct dm_target_spec spec;
		char text[256];
	} request;
	memset(&request, 0, sizeof(request));
	request.head.version[0] = DM_VERSION_MAJOR;
	request.head.data_size = sizeof(request);
	request.head.data_start = sizeof(request.head);
	snprintf(request.head.name, sizeof(request.head.name), "%s", name);
	if (target) {
		request.head.target_count = 1;
		request.spec.length = SECTORS;
		snprintf(request.spec.target_type, sizeof(request.spec.target_type), "%s", target);
		snprintf(request.text, sizeof(request.text), "%s", parameters);
	}
	check(ioctl(control, command, &request) == 0, "ioctl of the device mapper");
}

// Of the device mapper: one target, which is all of a disk.
static void dio_dm(void)
{
	volatile int *silent = attach_silent_disk(9, NULL);
	int control = open_device("/dev/mapper/control", O_RDWR);
	ask_dm(control, DM_DEV_CREATE, "linear", NULL, NULL);
	ask_dm(control, DM_TABLE_LOAD, "linear", "linear", "/dev/nbd9 0");
	ask_dm(control, DM_DEV_SUSPEND, "linear", NULL, NULL);
	int fd = open_device("/dev/dm-0", O_RDWR | O_DIRECT);
	*silent = 1;
	use_for_ever(fd, "device mapper");
}

static void add_disk(int array, int number, const char *path)
{
	struct stat status;
	check(stat(path, &status) == 0, path);
	mdu_disk_info_t disk = {.number = number, .raid_disk = number, .state = 1 << MD_DISK_ACTIVE | 1 << MD_DISK_SYNC,
				.major = major(status.st_rdev), .minor = minor(status.st_rdev)};
	check(ioctl(array, ADD_NEW_DISK, &disk) == 0, "ADD_NEW_DISK");
}

// A mirror without superblocks. What is written goes to both disks, and is held once.
static void dio_md(void)
{
	mdu_array_info_t info = {.level = 1, .nr_disks = 2, .raid_disks = 2, .not_persistent = 1, .state = 1 << MD_SB_CLEAN,
				 .size = SECTORS / 2};
	volatile int *first = attach_silent_disk(10, NULL), *second = attach_silent_disk(11, NULL);
	// By the name, or by having it opened: what newer kernels do not offer any more.
	write_file("/sys/module/md_mod/parameters/new_array", "md0");
	mknod("/dev/md0", S_IFBLK | 0600, makedev(MD_MAJOR, 0));
	int array = open_device("/dev/md0", O_RDWR);
	check(ioctl(array, SET_ARRAY_INFO, &info) == 0, "SET_ARRAY_INFO");
	add_disk(array, 0, "/dev/nbd10");
	add_disk(array, 1, "/dev/nbd11");
	check(ioctl(array, RUN_ARRAY, NULL) == 0, "RUN_ARRAY");
	int fd = open_device("/dev/md0", O_RDWR | O_DIRECT);
	*first = *second = 1;
	use_for_ever(fd, "mirror");
}

// --- buffers: held by no process, and no reference

static void in_use(const char *device, int page, const char *const kinds[], int number)
{
	int fd = open_device(device, O_RDONLY);
	char *region = mmap(NULL, (page + 1) * PAGE, PROT_READ, MAP_SHARED, fd, 0);
	check(region != MAP_FAILED, device);
	touch(region + page * PAGE, PAGE);
	for (int i = 0; i < number; i++)
		held_by_nobody(kinds[i], pfn_of(region + page * PAGE), 0);
	mark("file", region, page, 0, device);
}

// In blocks of a page each.
static void buffers_kept(void)
{
	static const char *const kinds[] = {"buffer-super", "buffer-group"};
	for (int i = 0; i < 2; i++)
		in_use("/dev/loop0", i, &kinds[i], 1);
}

// In blocks of a quarter of that, so that all is in one page. What was changed is committed, and not written in place.
static void buffers_journal(void)
{
	static const char *const kinds[] = {"buffer-super", "buffer-group", "buffer-journal"};
	attach_loop(2, "/journal.img");
	mkdir("/journal", 0755);
	check(mount("/dev/loop2", "/journal", "ext4", 0, "noinit_itable") == 0, "/journal");
	int fd = file_of("/journal", 1);
	check(fsync(fd) == 0, "fsync");
	in_use("/dev/loop2", 0, kinds, ARRAY_SIZE(kinds));
}

const struct scenario scenarios_kernel_disks[] = {
	{"dio_dm", dio_dm},
	{"dio_md", dio_md},
	{"buffers_kept", buffers_kept},
	{"buffers_journal", buffers_journal},
	{0},
};
