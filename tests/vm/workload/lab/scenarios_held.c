// SPDX-License-Identifier: LGPL-2.1-or-later
// Folios with a reference that no part of mm explains.
#include "../lab.h"

#include <sys/socket.h>
#include <sys/uio.h>

static void base_held(void)
{
	char *region = base_pages(3);
	hold(region + PAGE);
	mark("anon", region, 0, 0, "neighbour");
	mark("anon", region, 1, 1, "");
	mark("anon", region, 2, 0, "neighbour");
}

static void thp_held(void)
{
	char *region = thp();
	hold(region + 3 * PAGE);
	mark_folio("anon-thp", region, pfn_of(region), 512, 1, "page 3");
}

static void copy_and_mark(void *region)
{
	uint64_t head = pfn_of(region);
	*((volatile char *)region + 7 * PAGE) = 'c';
	mark_folio("anon-thp", region, head, 512, 1, "child");
}

static void thp_cow_held(void)
{
	char *region = thp();
	in_child(copy_and_mark, region);
	hold(region + 3 * PAGE);
	mark_folio("anon-thp", region, pfn_of(region), 512, 1, "parent, page 3");
}

static void mthp_held(void)
{
	if (access("/sys/kernel/mm/transparent_hugepage/hugepages-64kB", F_OK))
		lacks("no 64 KiB folios");
	char *region = aligned_region(MTHP, THP);
	check(madvise(region, MTHP, MADV_HUGEPAGE) == 0, "madvise(MADV_HUGEPAGE)");
	fill(region, MTHP);
	check(pfn_of(region + MTHP - PAGE) == pfn_of(region) + 15, "no 64 KiB folio was allocated");
	hold(region + 3 * PAGE);
	mark_folio("anon-mthp", region, pfn_of(region), 16, 1, "page 3");
}

// The kernel's own pages have no owner whose page table names them. They are found by what is written in them. It is
// written in halves that lie apart, so that the whole of it is nowhere else in memory.
#define HALF 32

static struct iovec *signature(const char *name, int pairs)
{
	static char first[2 * HALF], second[2 * HALF];
	static struct iovec pieces[1024];
	snprintf(first, sizeof(first), "%-32s", name);
	snprintf(second, sizeof(second), "%32s", "of drgn_thp's lab");
	for (int i = 0; i < pairs; i++) {
		pieces[2 * i] = (struct iovec){first, HALF};
		pieces[2 * i + 1] = (struct iovec){second, HALF};
	}
	return pieces;
}

static void pipe_page(void)
{
	int ends[2];
	int pairs = PAGE / (2 * HALF);
	check(pipe(ends) == 0, "pipe");
	check(writev(ends[1], signature("pipe page", pairs), 2 * pairs) == (ssize_t)PAGE, "writev");
	mark_pfn("kernel", 0, 0, 1, "sig=pipe page");
}

static void socket_page(void)
{
	int ends[2];
	struct msghdr message = {.msg_iov = signature("socket page", 512), .msg_iovlen = 1024};
	check(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0, "socketpair");
	check(sendmsg(ends[1], &message, 0) == 1024 * HALF, "sendmsg");
	mark_pfn("kernel", 0, 0, 1, "sig=socket page");
}

const struct scenario scenarios_held[] = {
	{"base_held", base_held}, {"thp_held", thp_held},   {"thp_cow_held", thp_cow_held},
	{"mthp_held", mthp_held}, {"pipe_page", pipe_page}, {"socket_page", socket_page},
	{0},
};
