// SPDX-License-Identifier: LGPL-2.1-or-later
// Pages in all kinds of states with a plain reference (FOLL_GET), mostly of a pipe: they stay where they are.
#include "pins.h"

#include <fcntl.h>
#include <sys/sendfile.h>
#include <sys/socket.h>

static void mark_one(const char *kind, char *page, uint64_t set, uint64_t clear, int held, const char *note)
{
	expect_settled(pfn_of(page), KPF_LRU | set, clear, "not the page that was meant");
	mark(kind, page, 0, held, note);
}

static void ksm_held(void)
{
	char *region = aligned_region(2 * PAGE, THP);
	int merged = 0;
	memset(region, 'p', 2 * PAGE);
	check(madvise(region, 2 * PAGE, MADV_MERGEABLE) == 0, "madvise(MADV_MERGEABLE)");
	write_file("/sys/kernel/mm/ksm/sleep_millisecs", "5");
	write_file("/sys/kernel/mm/ksm/pages_to_scan", "1000");
	check(write_file("/sys/kernel/mm/ksm/run", "1") == 0, "ksmd does not run");
	for (int tries = 0; !merged && tries < 4000; tries++, usleep(5000))
		merged = pfn_of(region) == pfn_of(region + PAGE);
	write_file("/sys/kernel/mm/ksm/run", "0");
	check(merged, "the pages were not merged");
	hold(region);
	check(pfn_of(region) == pfn_of(region + PAGE), "the pages were merged no longer");
	mark_one("ksm", region, KPF_KSM, 0, 1, "first of two mappings");
	mark_one("ksm", region + PAGE, KPF_KSM, 0, 1, "second of two mappings");
}

static void mlocked_held(void)
{
	char *region = base_pages(2);
	check(mlock(region, 2 * PAGE) == 0, "mlock");
	hold(region);
	mark_one("anon", region, KPF_ANON | KPF_UNEVICTABLE, 0, 1, "");
	mark_one("anon", region + PAGE, KPF_ANON | KPF_UNEVICTABLE, 0, 0, "neighbour");
}

static void mark_forked(void *page)
{
	mark("anon", page, 0, 1, "child");
}

static void forked_held(void)
{
	char *region = base_pages(1);
	in_child(mark_forked, region);
	hold(region);
	mark_one("anon", region, KPF_ANON, 0, 1, "parent");
}

static void lazyfree_pages(int held)
{
	char *region = base_pages(2);
	drain(); // Pages that are not on the LRU yet are passed over.
	check(madvise(region, 2 * PAGE, MADV_FREE) == 0, "madvise(MADV_FREE)");
	if (held)
		hold(region);
	mark_one("anon", region, KPF_ANON, KPF_SWAPBACKED, held, "");
	mark_one("anon", region + PAGE, KPF_ANON, KPF_SWAPBACKED, 0, "");
}

static void lazyfree(void)
{
	lazyfree_pages(0);
}

static void lazyfree_held(void)
{
	lazyfree_pages(1);
}

static char *lazyfree_folio(void)
{
	char *region = thp();
	drain();
	check(madvise(region, THP, MADV_FREE) == 0, "madvise(MADV_FREE)");
	expect_settled(pfn_of(region), KPF_LRU | KPF_ANON | KPF_THP, KPF_SWAPBACKED, "not a THP that may be freed");
	return region;
}

static void lazyfree_thp(void)
{
	char *region = lazyfree_folio();
	mark_folio("anon-thp", region, pfn_of(region), 512, 0, "");
}

static void lazyfree_thp_held(void)
{
	char *region = lazyfree_folio();
	hold(region + 3 * PAGE);
	mark_folio("anon-thp", region, pfn_of(region), 512, 1, "page 3");
}

static void twice(int ends[2])
{
	int others[2];
	check(pipe(others) == 0 && tee(ends[0], others[1], PAGE, 0) == (ssize_t)PAGE, "tee");
}

static void tee_held(void)
{
	int ends[2];
	char *region = base_pages(1);
	into_pipe(ends, region);
	twice(ends);
	mark_one("anon", region, KPF_ANON, 0, 1, "two pipes");
}

static void ext4_tee_held(void)
{
	int ends[2], fd = file_of("/ext4", 1);
	check(fsync(fd) == 0, "fsync");
	from_file(ends, fd);
	twice(ends);
	mark_one("file", map_file(fd, 1), 0, KPF_ANON | KPF_SWAPBACKED, 1, "two pipes");
}

static void tmpfs_held(void)
{
	int fd = file_of("/tmpfs", 1);
	char *region = map_file(fd, 1);
	hold(region);
	mark_one("shmem", region, KPF_SWAPBACKED, KPF_ANON, 1, "vmsplice");
}

static void tmpfs_spliced(void)
{
	int ends[2], fd = file_of("/tmpfs", 1);
	from_file(ends, fd);
	mark_one("shmem", map_file(fd, 1), KPF_SWAPBACKED, KPF_ANON, 1, "splice");
}

// From the pipe into a socket, without a copy.
static void unix_held(void)
{
	int ends[2], sockets[2];
	char *region = base_pages(1);
	into_pipe(ends, region);
	check(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets) == 0, "socketpair");
	check(splice(ends[0], NULL, sockets[0], NULL, PAGE, 0) == (ssize_t)PAGE, "splice to a socket");
	close(ends[0]);
	close(ends[1]);
	mark_one("anon", region, KPF_ANON, 0, 1, "receive queue");
}

// No process has the pipe open: it is on its way in a message that nobody takes.
static void scm_held(void)
{
	int ends[2], sockets[2];
	char *region = base_pages(1);
	into_pipe(ends, region);
	check(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets) == 0, "socketpair");
	send_descriptor(sockets[0], ends[0]);
	close(ends[0]);
	close(ends[1]);
	mark_one("anon", region, KPF_ANON, 0, 1, "pipe in flight");
}

static void tcp_zerocopy(void)
{
	int sender = blocked_connection();
	char *region = base_pages(1);
	check(send(sender, region, PAGE, MSG_ZEROCOPY | MSG_DONTWAIT) == (ssize_t)PAGE, "send(MSG_ZEROCOPY)");
	mark_one("anon", region, KPF_ANON, 0, 1, "write queue");
}

static void tcp_sendfile(void)
{
	int fd = file_of("/tmpfs", 1), sender = blocked_connection();
	off_t start = 0;
	check(sendfile(sender, fd, &start, PAGE) == (ssize_t)PAGE, "sendfile");
	mark_one("shmem", map_file(fd, 1), KPF_SWAPBACKED, KPF_ANON, 1, "write queue");
}

const struct scenario scenarios_spliced[] = {
	{"ksm_held", ksm_held},
	{"mlocked_held", mlocked_held},
	{"forked_held", forked_held},
	{"lazyfree", lazyfree},
	{"lazyfree_held", lazyfree_held},
	{"lazyfree_thp", lazyfree_thp},
	{"lazyfree_thp_held", lazyfree_thp_held},
	{"tee_held", tee_held},
	{"ext4_tee_held", ext4_tee_held},
	{"tmpfs_held", tmpfs_held},
	{"tmpfs_spliced", tmpfs_spliced},
	{"unix_held", unix_held},
	{"scm_held", scm_held},
	{"tcp_zerocopy", tcp_zerocopy},
	{"tcp_sendfile", tcp_sendfile},
	{0},
};
