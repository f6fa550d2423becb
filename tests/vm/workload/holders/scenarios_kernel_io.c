// SPDX-License-Identifier: LGPL-2.1-or-later
// Tasks in the middle of reading, writing and faulting: what they have while the disk, or a server, does not answer.
#include "../fuse.h"
#include "holders.h"

#include <linux/fs.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/swap.h>

#define FILE_PAGES 4
#define SWAP_PAGES 256
#define RECLAIMED 8

// --- pages that are not mapped, and that only the flags of all pages show

#define MAX_FRAMES (1 << 21)
static uint64_t before[MAX_FRAMES / 64], after[MAX_FRAMES / 64];

static int waits_for_reading(uint64_t flags)
{
	return (flags & (KPF_LOCKED | KPF_UPTODATE | KPF_NOPAGE)) == KPF_LOCKED;
}

static void look(uint64_t *seen, int (*is)(uint64_t))
{
	static uint64_t flags[16 << 10];
	ssize_t got;
	int fd = open("/proc/kpageflags", O_RDONLY);
	memset(seen, 0, sizeof(before));
	for (off_t at = 0; (got = pread(fd, flags, sizeof(flags), at)) > 0; at += got)
		for (ssize_t i = 0; i < got / 8; i++) {
			uint64_t pfn = at / 8 + i;
			if (pfn < MAX_FRAMES && is(flags[i]))
				seen[pfn / 64] |= 1UL << pfn % 64;
		}
	close(fd);
}

// Looks until there are so many that look() had not seen before.
static void find_new(int (*is)(uint64_t), uint64_t *found, int wanted)
{
	for (int tries = 0; tries < 100; tries++, usleep(100 * 1000)) {
		int number = 0;
		drain();
		look(after, is);
		for (uint64_t pfn = 0; pfn < MAX_FRAMES; pfn++)
			if ((after[pfn / 64] & ~before[pfn / 64]) >> pfn % 64 & 1) {
				if (number < wanted)
					found[number] = pfn;
				number++;
			}
		if (number == wanted)
			return;
	}
	fail("not as many pages are in the middle of I/O as should be");
}

// --- reading

struct reading {
	int fd;
	char *into;
	size_t size;
};

static void *read_now(void *argument)
{
	struct reading *reading = argument;
	pread(reading->fd, reading->into, reading->size, 0);
	fail("a read ended that should not");
	return NULL;
}

// A thread that copies from the page cache, and whose next page nobody provides.
static void read_into_nothing(int fd, int pages)
{
	static struct reading reading;
	char *into = aligned_region(pages * PAGE, PAGE);
	struct pollfd faults = {.fd = userfault(into, pages * PAGE), .events = POLLIN};
	reading = (struct reading){fd, into, pages * PAGE};
	start_thread(read_now, &reading);
	check(poll(&faults, 1, 10000) == 1 && faults.revents == POLLIN, "no page fault was waited for");
}

static void copied_ext4(void)
{
	int fd = file_of("/ext4", FILE_PAGES);
	char *region = map_file(fd, FILE_PAGES);
	check(fsync(fd) == 0, "fsync");
	read_into_nothing(fd, FILE_PAGES);
	// Before that, one page after another.
	for (int i = 0; i < (is_before(5, 12) ? 1 : FILE_PAGES); i++) {
		holds("page-io", region + i * PAGE, -1, 1, 0);
		mark("file", region, i, 1, "read");
	}
}

static void copied_tmpfs(void)
{
	int fd = file_of("/tmpfs", 2);
	char *region = map_file(fd, 2);
	read_into_nothing(fd, 2);
	holds("page-io", region, -1, 1, 0);
	mark("shmem", region, 0, 1, "read");
}

static struct fuse *silent_file(const char *directory, int *fd)
{
	char path[64];
	quiet();
	struct fuse *fuse = fuse_mount(directory);
	snprintf(path, sizeof(path), "%s/file", directory);
	*fd = open(path, O_RDWR);
	check(*fd >= 0, path);
	return fuse;
}

// Read ahead: a request has its pages, and nobody waits.
static void fuse_reading(void)
{
	uint64_t pfns[FILE_PAGES];
	int fd;
	struct fuse *fuse = silent_file("/fuse-reading", &fd);
	fuse->silent_reads = 1;
	look(before, waits_for_reading);
	check(readahead(fd, 0, FILE_PAGES * PAGE) == 0, "readahead");
	find_new(waits_for_reading, pfns, FILE_PAGES);
	for (int i = 0; i < FILE_PAGES; i++) {
		another_holds(fuse->server, "fuse", pfns[i], fuse->device, 1, 0);
		mark_pfn("file", pfns[i], i, 1, "being read");
	}
}

// --- waiting

static void *touch_now(void *page)
{
	touch(page, PAGE);
	fail("a page came that should not");
	return NULL;
}

static void touch_for_ever(void *page)
{
	start_thread(touch_now, page);
}

// A fault on a page that is never read in: whoever waits for its lock has a reference.
static void fault_fuse(void)
{
	uint64_t pfns[1];
	int fd;
	silent_file("/fuse-fault", &fd)->silent_reads = 1;
	char *region = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0);
	check(region != MAP_FAILED && madvise(region, PAGE, MADV_RANDOM) == 0, "mmap of a file");
	look(before, waits_for_reading);
	// The first one has the request, the second one waits for the lock. The request itself has no reference.
	in_child(touch_for_ever, region);
	int first = last_child();
	find_new(waits_for_reading, pfns, 1);
	int second = in_stuck_child(touch_for_ever, region);
	another_holds(first, "fault", pfns[0], -1, 1, 0);
	another_holds(second, "fault", pfns[0], -1, 1, 0);
	mark_pfn("file", pfns[0], 0, 1, "waited for");
}

// The same of a disk.
static void fault_ext4(void)
{
	uint64_t pfns[1];
	volatile int *silent;
	int fd = silent_mount(4, "/disk-fault", &silent);
	char *region = mmap(NULL, FILE_PAGES * PAGE, PROT_READ, MAP_SHARED, fd, 0);
	check(region != MAP_FAILED && madvise(region, FILE_PAGES * PAGE, MADV_RANDOM) == 0, "mmap of a file");
	*silent = 1;
	look(before, waits_for_reading);
	int stuck = in_stuck_child(touch_for_ever, region + 2 * PAGE);
	find_new(waits_for_reading, pfns, 1);
	another_holds(stuck, "fault", pfns[0], -1, 1, 0);
	mark_pfn("file", pfns[0], 2, 1, "waited for");
}

// Who reads waits, too. Since 5.12 without a reference on what it waits for, but with those on what came before.
static void read_ext4(void)
{
	static struct reading reading;
	uint64_t pfns[1];
	volatile int *silent;
	int fd = silent_mount(5, "/disk-read", &silent);
	char *region = map_file(fd, 1);
	reading = (struct reading){fd, base_pages(2), 2 * PAGE};
	*silent = 1;
	look(before, waits_for_reading);
	check(readahead(fd, PAGE, PAGE) == 0, "readahead");
	find_new(waits_for_reading, pfns, 1);
	start_thread(read_now, &reading);
	wait_until_stuck(getpid());
	int waited_for = is_before(5, 12), read_before = !waited_for && is_before(7, 0);
	if (waited_for)
		holds_pfn("page-io", pfns[0], -1, 1, 0);
	if (read_before)
		holds("page-io", region, -1, 1, 0);
	mark("file", region, 0, read_before, "read");
	mark_pfn("file", pfns[0], 1, waited_for, "waited for");
}

static void *sync_file(void *fd)
{
	fsync(*(int *)fd);
	fail("fsync ended");
	return NULL;
}

static void sync_for_ever(void *argument)
{
	static int fd;
	fd = *(int *)argument;
	start_thread(sync_file, &fd);
}

// A page that is being written for ever, and two who wait for that.
static void written_ext4(void)
{
	volatile int *silent;
	int fd = silent_mount(6, "/disk-write", &silent);
	char *region = map_file(fd, 1);
	*silent = 1;
	region[0] = 'd';
	int first = in_stuck_child(sync_for_ever, &fd), second = in_stuck_child(sync_for_ever, &fd);
	uint64_t pfn = pfn_of(region);
	expect(pfn, KPF_WRITEBACK, 0, "not being written");
	another_holds(first, "page-io", pfn, -1, 1, 0);
	another_holds(second, "page-io", pfn, -1, 1, 0);
	mark_pfn("file", pfn, 0, 1, "being written");
}

static void *write_some(void *fd)
{
	pwrite(*(int *)fd, "w", 1, 2 * PAGE + 1);
	fail("a write ended that should not");
	return NULL;
}

// Who writes a part of a page has to read the rest of it.
static void write_ext4(void)
{
	static int fd;
	uint64_t pfns[1];
	volatile int *silent;
	fd = silent_mount(13, "/disk-partly", &silent);
	*silent = 1;
	look(before, waits_for_reading);
	start_thread(write_some, &fd);
	wait_until_stuck(getpid());
	find_new(waits_for_reading, pfns, 1);
	holds_pfn("page-io", pfns[0], -1, 1, 0);
	mark_pfn("file", pfns[0], 2, 1, "written in part");
}

static void *truncate_now(void *fd)
{
	ftruncate(*(int *)fd, 0);
	fail("ftruncate ended");
	return NULL;
}

static void truncate_for_ever(void *argument)
{
	static int fd;
	fd = *(int *)argument;
	start_thread(truncate_now, &fd);
}

// What is to go, and is being written.
static void truncate_ext4(void)
{
	volatile int *silent;
	int fd = silent_mount(14, "/disk-truncate", &silent);
	char *region = map_file(fd, 1);
	uint64_t pfn = pfn_of(region);
	*silent = 1;
	region[0] = 'd';
	int first = in_stuck_child(sync_for_ever, &fd), second = in_stuck_child(truncate_for_ever, &fd);
	expect(pfn, KPF_WRITEBACK, 0, "not being written");
	another_holds(first, "page-io", pfn, -1, 1, 0);
	another_holds(second, "page-io", pfn, -1, 1, 0);
	mark_pfn("file", pfn, 0, 1, "truncated");
}

// --- swap

// A CPU takes many slots at a time and keeps those that it does not use: so both scenarios have the same swap area. It
// takes so few requests that it is soon full.
static volatile int *attach_silent_swap(void)
{
	static char page[PAGE];
	const uint32_t header[] = {1, SWAP_PAGES - 1, 0};
	int fd = open("/ramfs/silent.swap", O_RDWR | O_CREAT | O_EXCL, 0600);
	memcpy(page + 1024, header, sizeof(header));
	memcpy(page + PAGE - 10, "SWAPSPACE2", 10);
	check(fd >= 0 && write(fd, page, PAGE) == (ssize_t)PAGE && ftruncate(fd, SWAP_PAGES * PAGE) == 0, "swap area");
	close(fd);
	volatile int *silent = attach_silent_disk(7, "/ramfs/silent.swap");
	check(write_file("/sys/block/nbd7/queue/scheduler", "none") == 0, "no scheduler none");
	check(write_file("/sys/block/nbd7/queue/nr_requests", "4") == 0, "nr_requests");
	check(swapon("/dev/nbd7", SWAP_FLAG_PREFER | 10) == 0, "swapon");
	return silent;
}

static int is_there(void *page)
{
	unsigned char there = 1;
	check(mincore(page, PAGE, &there) == 0, "mincore");
	return there & 1;
}

// What this process has so far stays, so that it is just this page which goes; and out of the swap cache as well.
static char *swap_out(void)
{
	mkdir("/cgroup", 0755);
	check(mount("cgroup2", "/cgroup", "cgroup2", 0, NULL) == 0, "/cgroup");
	check(write_file("/cgroup/cgroup.subtree_control", "+memory") == 0, "cgroup.subtree_control");
	mkdir("/cgroup/swapped", 0755);
	check(mlockall(MCL_CURRENT) == 0 && write_file("/cgroup/swapped/cgroup.procs", "0") == 0, "cgroup.procs");
	char *page = base_pages(1);
	for (int tries = 0; tries < 300 && is_there(page); tries++, usleep(100 * 1000)) {
		if (tries % 20 == 0) {
			// Once it is active it would stay so: how many are, is counted by the batch.
			touch(page, PAGE);
			madvise(page, PAGE, MADV_COLD);
		}
		drain(); // What a batch has is not reclaimed.
		check(write_file("/cgroup/swapped/memory.high", "0") == 0, "memory.high");
		check(write_file("/cgroup/swapped/memory.high", "max") == 0, "memory.high");
	}
	check(!is_there(page), "the page is still there");
	return page;
}

static void swap_in_for_ever(void *argument)
{
	char *page = swap_out();
	*(volatile int *)argument = 1;
	start_thread(touch_now, page);
}

static void swapped_in(void)
{
	uint64_t pfns[1];
	quiet();
	look(before, waits_for_reading);
	int stuck = in_stuck_child(swap_in_for_ever, (void *)attach_silent_swap());
	find_new(waits_for_reading, pfns, 1);
	another_holds(stuck, "fault", pfns[0], -1, 1, 0);
	mark_pfn("anon", pfns[0], 0, 1, "being swapped in");
}

static void *page_out(void *region)
{
	madvise(region, RECLAIMED * PAGE, MADV_PAGEOUT);
	fail("MADV_PAGEOUT ended");
	return NULL;
}

// Nothing can be written any more, as there is a request for the page that is swapped in, and one for each of three
// others. So the pages stay with who wants to write them.
static void reclaimed(void)
{
	uint64_t pfns[RECLAIMED];
	int disk = open("/dev/nbd7", O_RDONLY | O_DIRECT);
	check(disk >= 0, "/dev/nbd7");
	// Not across two page tables: madvise(2) would not come to the second.
	char *region = aligned_region(RECLAIMED * PAGE, RECLAIMED * PAGE), *others = base_pages(3);
	for (int i = 0; i < 3; i++) {
		read_for_ever(others + i * PAGE, disk);
		holds("direct-io", others + i * PAGE, -1, -1, -1);
	}
	check(madvise(region, RECLAIMED * PAGE, MADV_DONTFORK) == 0, "madvise(MADV_DONTFORK)");
	fill(region, RECLAIMED * PAGE);
	drain();
	for (int i = 0; i < RECLAIMED; i++)
		pfns[i] = pfn_of(region + i * PAGE);
	start_thread(page_out, region);
	wait_until_stuck(getpid());
	for (int i = 0; i < RECLAIMED; i++) {
		expect_off_lru(pfns[i], 0);
		holds_pfn("isolated", pfns[i], -1, 1, 0);
		mark_pfn("anon", pfns[i], i, 1, "being paged out");
	}
}

// --- what sendfile(2) has on its way

static int full_socket;

static void *send_now(void *fd)
{
	off_t start = 0;
	sendfile(full_socket, *(int *)fd, &start, FILE_PAGES * PAGE);
	fail("sendfile ended");
	return NULL;
}

static void sendfile_full(void)
{
	static char ballast[PAGE];
	static int fd;
	fd = file_of("/tmpfs", FILE_PAGES);
	char *region = map_file(fd, FILE_PAGES);
	full_socket = blocked_connection();
	while (send(full_socket, ballast, sizeof(ballast), MSG_DONTWAIT) > 0)
		;
	start_thread(send_now, &fd);
	// Until it has taken what it can from the file.
	wait_until_asleep(getpid());
	for (int i = 0; i < FILE_PAGES; i++) {
		holds("sendfile", region + i * PAGE, -1, 1, 0);
		mark("shmem", region, i, 1, "sendfile");
	}
}

// --- a file system that is frozen

static void *write_now(void *page)
{
	*(volatile char *)page = 'w';
	fail("a page became writable that should not");
	return NULL;
}

static void freeze_ext4(void)
{
	volatile int *silent;
	int fd = silent_mount(8, "/disk-frozen", &silent);
	char *region = map_file(fd, 1);
	check(ioctl(fd, FIFREEZE, 0) == 0, "FIFREEZE");
	start_thread(write_now, region);
	wait_until_stuck(getpid());
	holds("fault", region, -1, 1, 0);
	mark("file", region, 0, 1, "becoming writable");
}

const struct scenario scenarios_kernel_io[] = {
	{"copied_ext4", copied_ext4},
	{"copied_tmpfs", copied_tmpfs},
	{"fuse_reading", fuse_reading},
	{"fault_fuse", fault_fuse},
	{"fault_ext4", fault_ext4},
	{"read_ext4", read_ext4},
	{"written_ext4", written_ext4},
	{"write_ext4", write_ext4},
	{"truncate_ext4", truncate_ext4},
	{"swapped_in", swapped_in},
	{"reclaimed", reclaimed},
	{"sendfile_full", sendfile_full},
	{"freeze_ext4", freeze_ext4},
	{0},
};
