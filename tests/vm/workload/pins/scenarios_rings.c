// SPDX-License-Identifier: LGPL-2.1-or-later
// Pages of the kernel that it shares with a process: rings. They are mapped, and yet no pages of a process. Only those
// of AIO are in a page cache, from which they can be moved.
#include "pins.h"

#include <linux/aio_abi.h>
#include <linux/io_uring.h>

// The page map leaves out what is mapped by number (VM_PFNMAP). Such a page is found by what is written into it, behind
// all that the kernel uses of it, and in halves that lie together nowhere else.
static void mark_by_content(char *page, const char *name)
{
	char note[64];
	snprintf(page + PAGE / 2, 33, "%-32s", name);
	snprintf(page + PAGE / 2 + 32, 33, "%32s", "of drgn_thp's lab");
	snprintf(note, sizeof(note), "sig=%s", name);
	mark_pfn("kernel", 0, 0, 1, note);
}

static void mark_ring(char *ring, int pages, const char *name)
{
	check(ring != MAP_FAILED, "mmap of a ring");
	touch(ring, pages * PAGE);
	if (!pfn_of(ring)) {
		// Of the others some are not ours to write to.
		mark_by_content(ring, name);
		return;
	}
	for (int i = 0; i < pages; i++) {
		expect_settled(pfn_of(ring + i * PAGE), 0, KPF_LRU | KPF_ANON, "not a ring of the kernel's");
		mark("kernel", ring, i, 1, name);
	}
}

static void io_uring_ring(void)
{
	struct io_uring_params parameters = {0};
	int fd = syscall(SYS_io_uring_setup, 4, &parameters);
	check(fd >= 0, "io_uring_setup");
	// The rings of submission and completion are in one page.
	mark_ring(mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, IORING_OFF_SQ_RING), 1, "rings of io_uring");
	mark_ring(mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, IORING_OFF_SQES), 1, "entries of io_uring");
}

static void packet_ring(void)
{
	mark_ring(mmap(NULL, 8 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, open_packet_ring(), 0), 8,
		  "ring of AF_PACKET");
}

static void perf_ring(void)
{
	mark_ring(mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, open_perf_event(), 0), 3, "ring of perf");
}

static void aio_ring(void)
{
	aio_context_t context = 0;
	check(syscall(SYS_io_setup, 128, &context) == 0, "io_setup");
	char *ring = (char *)context;
	touch(ring, PAGE);
	check(!(kpageflags(pfn_of(ring)) & KPF_ANON), "the ring of AIO is anonymous");
	// The reference of the context is one that the ring's own way to migrate allows for.
	mark("file", ring, 0, 1, "reference of the context");
}

const struct scenario scenarios_rings[] = {
	{"io_uring_ring", io_uring_ring},
	{"packet_ring", packet_ring},
	{"perf_ring", perf_ring},
	{"aio_ring", aio_ring},
	{0},
};
