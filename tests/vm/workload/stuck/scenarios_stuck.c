// SPDX-License-Identifier: LGPL-2.1-or-later
// Writing and reading that never ends: each scenario has a device or server of its own, which dies with it.
#include "../fuse.h"
#include "../lab.h"
#include "nbd.h"

#include <sys/mount.h>
#include <sys/swap.h>

#define SWAP_PAGES 16384UL
#define EXT4_SIZE (8UL << 20)
#define UNREAD_PAGES 4

// The kernel complains of tasks and requests that hang, and would do so in the middle of our lines.
static void quiet(void)
{
	write_file("/proc/sys/kernel/printk", "1");
	write_file("/proc/sys/kernel/hung_task_timeout_secs", "0");
}

static void wait_for_flags(uint64_t pfn, uint64_t flags, const char *what)
{
	for (int tries = 0; tries < 5000; tries++, usleep(1000))
		if ((kpageflags(pfn) & flags) == flags)
			return;
	fail(what);
}

static void wait_for_silence(volatile int *unanswered)
{
	for (int tries = 0; tries < 5000; tries++, usleep(1000))
		if (*unanswered)
			return;
	fail("the server was not asked for anything");
}

// --- ext4

static struct nbd *mount_ext4(int number, const char *path)
{
	char device[32];
	int fd = open("/ext4.img", O_RDONLY);
	char *content = mmap(NULL, EXT4_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	check(fd >= 0 && content != MAP_FAILED && read(fd, content, EXT4_SIZE) == (ssize_t)EXT4_SIZE, "/ext4.img");
	close(fd);
	quiet();
	struct nbd *nbd = nbd_attach(number, content, EXT4_SIZE);
	munmap(content, EXT4_SIZE);
	snprintf(device, sizeof(device), "/dev/nbd%d", number);
	mkdir(path, 0755);
	check(mount(device, path, "ext4", 0, NULL) == 0, path);
	return nbd;
}

// A page that is being written for ever, and one of the same file that is not.
static void ext4_writeback(void)
{
	static char data[PAGE];
	struct nbd *nbd = mount_ext4(0, "/ext4-writeback");
	int fd = open("/ext4-writeback/file", O_RDWR | O_CREAT, 0600);
	check(fd >= 0, "open");
	for (int i = 0; i < 2; i++) {
		// One at a time, so that they do not become one folio.
		fill(data, PAGE);
		check(write(fd, data, PAGE) == (ssize_t)PAGE, "write");
	}
	check(fsync(fd) == 0, "fsync");
	char *region = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	check(region != MAP_FAILED, "mmap of a file");
	touch(region, 2 * PAGE);
	region[0] = 'd';
	nbd->silent_writes = 1;
	if (fork() == 0)
		_exit(fsync(fd) != 0);
	wait_for_flags(pfn_of(region), KPF_WRITEBACK, "the page is not under writeback");
	wait_for_silence(&nbd->unanswered);
	check(!(kpageflags(pfn_of(region + PAGE)) & KPF_WRITEBACK), "the neighbour is under writeback, too");
	mark("file", region, 0, 1, "writeback, and waited for");
	mark("file", region, 1, 0, "neighbour");
}

// --- swap

static struct nbd *swap_on(int number, int priority)
{
	char device[32];
	char *content = mmap(NULL, SWAP_PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
			     -1, 0);
	check(content != MAP_FAILED, "mmap");
	const uint32_t header[] = {1, SWAP_PAGES - 1, 0};
	memcpy(content + 1024, header, sizeof(header));
	memcpy(content + PAGE - 10, "SWAPSPACE2", 10);
	quiet();
	struct nbd *nbd = nbd_attach(number, content, SWAP_PAGES * PAGE);
	munmap(content, SWAP_PAGES * PAGE);
	snprintf(device, sizeof(device), "/dev/nbd%d", number);
	check(swapon(device, SWAP_FLAG_PREFER | priority) == 0, "swapon");
	return nbd;
}

static void page_out(struct nbd *nbd, char *region, size_t size)
{
	uint64_t pfn = pfn_of(region);
	drain(); // Pages that are not on the LRU yet are passed over.
	nbd->silent_writes = 1;
	check(madvise(region, size, MADV_PAGEOUT) == 0, "madvise(MADV_PAGEOUT)");
	check(pfn_of(region) == 0, "the page is still mapped");
	wait_for_flags(pfn, KPF_WRITEBACK | KPF_SWAPCACHE, "the page is not on its way out");
	wait_for_silence(&nbd->unanswered);
}

static void swap_writeback(void)
{
	struct nbd *nbd = swap_on(1, 10);
	char *region = base_pages(2);
	uint64_t pfn[] = {pfn_of(region), pfn_of(region + PAGE)};
	page_out(nbd, region, 2 * PAGE);
	touch(region + PAGE, PAGE);
	check(pfn_of(region + PAGE) == pfn[1], "the page was not found in the swap cache");
	check(kpageflags(pfn[1]) & KPF_WRITEBACK, "the page was written after all");
	mark_pfn("anon", pfn[0], 0, 0, "writeback");
	mark("anon", region, 1, 0, "writeback, mapped again");
}

static void swap_writeback_thp(void)
{
	struct nbd *nbd = swap_on(2, 20);
	char *region = thp();
	uint64_t head = pfn_of(region);
	page_out(nbd, region, THP);
	check(kpageflags(head) & KPF_THP, "the THP was split");
	mark_folio("anon-thp", NULL, head, 512, 0, "writeback");
}

// --- pages that nobody has mapped, and that only the flags of all pages show

static int is_marked(uint64_t pfn)
{
	for (int i = 0; i < table->marks; i++)
		if (table->mark[i].pfn == pfn)
			return 1;
	return 0;
}

// Nobody but us reads anything, so that these pages are ours.
static void mark_unread_pages(int held)
{
	static uint64_t flags[16 << 10];
	int found = 0, fd = open("/proc/kpageflags", O_RDONLY);
	ssize_t got;
	for (off_t at = 0; (got = pread(fd, flags, sizeof(flags), at)) > 0; at += got)
		for (ssize_t i = 0; i < got / 8; i++) {
			uint64_t pfn = at / 8 + i;
			if ((flags[i] & (KPF_LOCKED | KPF_UPTODATE | KPF_NOPAGE)) == KPF_LOCKED && !is_marked(pfn))
				mark_pfn("file", pfn, found++, held, "being read");
		}
	close(fd);
	check(found == UNREAD_PAGES, "not as many pages are locked as are being read");
}

// Reads ahead, so that nobody waits: up to 5.10 whoever waits for a page also has a reference on it.
static void read_for_ever(int fd, int held, volatile int *unanswered)
{
	check(readahead(fd, 0, UNREAD_PAGES * PAGE) == 0, "readahead");
	wait_for_silence(unanswered);
	drain();
	mark_unread_pages(held);
}

static void ext4_reading(void)
{
	struct nbd *nbd = mount_ext4(3, "/ext4-reading");
	int fd = open("/ext4-reading/unmapped", O_RDONLY);
	check(fd >= 0, "open");
	nbd->silent_reads = 1;
	read_for_ever(fd, 0, &nbd->unanswered);
}

// --- FUSE

static void fuse_reading(void)
{
	quiet();
	struct fuse *fuse = fuse_mount("/fuse-reading");
	int fd = open("/fuse-reading/file", O_RDONLY);
	check(fd >= 0, "open");
	fuse->silent_reads = 1;
	// A request has a reference on each of its pages.
	read_for_ever(fd, 1, &fuse->unanswered);
}

// Returns a page whose WRITE is not answered, and another one of the file.
static char *fuse_unwritten(const char *directory)
{
	char path[64];
	quiet();
	struct fuse *fuse = fuse_mount(directory);
	snprintf(path, sizeof(path), "%s/file", directory);
	int fd = open(path, O_RDWR);
	check(fd >= 0, path);
	char *region = mmap(NULL, FUSE_PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	check(region != MAP_FAILED, "mmap of a file");
	touch(region, FUSE_PAGES * PAGE);
	// So little may be dirty that the kernel starts to write on its own.
	fuse->silent_writes = 1;
	region[0] = 'd';
	if (fork() == 0)
		_exit(fsync(fd) != 0);
	wait_for_silence(&fuse->unanswered);
	drain();
	return region;
}

static void fuse_writeback(void)
{
	char *region = fuse_unwritten("/fuse-writeback");
	if (!(kpageflags(pfn_of(region)) & KPF_WRITEBACK))
		lacks("FUSE writes a copy");
	mark("file", region, 0, 1, "writeback");
	mark("file", region, FUSE_PAGES - 1, 0, "neighbour");
}

// Up to 6.15, what is being written is a copy, so that the page itself is free to go.
static void fuse_copied(void)
{
	char *region = fuse_unwritten("/fuse-copied");
	if (kpageflags(pfn_of(region)) & KPF_WRITEBACK)
		lacks("FUSE writes the page itself");
	mark("file", region, 0, 0, "a copy is being written");
}

const struct scenario scenarios_stuck[] = {
	{"ext4_writeback", ext4_writeback},
	{"swap_writeback", swap_writeback},
	{"swap_writeback_thp", swap_writeback_thp},
	{"ext4_reading", ext4_reading},
	{"fuse_reading", fuse_reading},
	{"fuse_writeback", fuse_writeback},
	{"fuse_copied", fuse_copied},
	{0},
};
