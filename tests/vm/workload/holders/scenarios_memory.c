// SPDX-License-Identifier: LGPL-2.1-or-later
// Memory that was registered with something: it is pinned for long.
#include "holders.h"

#include <errno.h>
#include <linux/udmabuf.h>
#include <sys/ioctl.h>
#include <sys/uio.h>

static void share_four(void *holders)
{
	for (int i = 0; i < 4; i++)
		shares(((int *)holders)[i]);
}

// Two buffers of one ring, and one of another one; a child has both open, too.
static void uring_buffers(void)
{
	char *region = base_pages(4);
	struct iovec buffers[2] = {{region, 2 * PAGE}, {region + 2 * PAGE, PAGE}};
	int numbers[4];
	check(madvise(region, 4 * PAGE, MADV_DONTFORK) == 0, "madvise(MADV_DONTFORK)");
	int first = register_buffers(buffers, 2), second = register_buffer(region + 3 * PAGE, PAGE);
	for (int i = 0; i < 4; i++)
		numbers[i] = holds("io-uring", region + i * PAGE, i < 3 ? first : second, 0, 1);
	in_child(share_four, numbers);
}

// Registered twice with one ring and once with another.
static void uring_thrice(void)
{
	char *page = base_pages(1);
	struct iovec buffers[2] = {{page, PAGE}, {page, PAGE / 2}};
	int first = register_buffers(buffers, 2), second = register_buffer(page, PAGE);
	holds("io-uring", page, first, 0, 2);
	holds("io-uring", page, second, 0, 1);
	mark("anon", page, 0, 1, "three buffers");
}

static void uring_thp(void)
{
	char *region = thp();
	int ring = register_buffer(region + 3 * PAGE, 5 * PAGE);
	holds("io-uring", region, ring, 0, -1);
	mark_folio("anon-thp", region, pfn_of(region), 512, 1, "five pages");
}

// Nobody maps what is held.
static void uring_unmapped(void)
{
	char *page = base_pages(1);
	int ring = register_buffer(page, PAGE);
	holds("io-uring", page, ring, 0, 1);
	mark_pfn("anon", pfn_of(page), 0, 1, "unmapped");
	munmap(page, PAGE);
}

static void uring_cloned(void)
{
	char *page = base_pages(1);
	int from = register_buffer(page, PAGE);
	struct ring ring = open_ring(0, NULL, NULL);
	if (!clone_buffers(ring.fd, from))
		lacks("buffers cannot be cloned");
	holds("io-uring", page, from, 0, 1);
	mark("anon", page, 0, 1, "two rings");
}

static void uring_provided(void)
{
	char *pages = base_pages(2);
	struct ring ring = open_ring(0, NULL, NULL);
	register_buffer_ring(ring.fd, pages, 1);
	register_buffer_ring(ring.fd, pages + PAGE, 300);
	for (int i = 0; i < 2; i++) {
		holds("io-uring", pages + i * PAGE, ring.fd, 0, 1);
		mark("anon", pages, i, 1, "ring of buffers");
	}
}

static void uring_own_rings(void)
{
	char *pages = base_pages(2);
	struct ring ring = open_ring(0, pages, pages + PAGE);
	for (int i = 0; i < 2; i++) {
		holds("io-uring", pages + i * PAGE, ring.fd, 0, 1);
		mark("anon", pages, i, 1, i ? "submission queue" : "rings");
	}
}

// Of one socket each, and one that a child shares.
static void umem(void)
{
	char *region = base_pages(3), *huge = thp();
	check(madvise(region, 3 * PAGE, MADV_DONTFORK) == 0, "madvise(MADV_DONTFORK)");
	check(madvise(huge, THP, MADV_DONTFORK) == 0, "madvise(MADV_DONTFORK)");
	int base = register_umem(region, 3 * PAGE), large = register_umem(huge + PAGE, 2 * PAGE);
	int numbers[4] = {holds("xdp", huge, large, 0, 2)};
	for (int i = 0; i < 3; i++)
		numbers[i + 1] = holds("xdp", region + i * PAGE, base, 0, 1);
	in_child(share_four, numbers);
	for (int i = 0; i < 3; i++)
		mark("anon", region, i, 1, "UMEM");
}

static void udmabuf(void)
{
	int device = open("/dev/udmabuf", O_RDWR);
	if (device < 0)
		lacks("no udmabuf");
	int fd = memfd_create("udmabuf", MFD_ALLOW_SEALING);
	check(fd >= 0 && ftruncate(fd, 3 * PAGE) == 0 && fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK) == 0, "memfd");
	char *region = map_file(fd, 3);
	fill(region, 3 * PAGE);
	struct udmabuf_create create = {.memfd = fd, .offset = PAGE, .size = PAGE};
	int buffer = ioctl(device, UDMABUF_CREATE, &create);
	check(buffer >= 0, "UDMABUF_CREATE");
	// What was moved is not mapped any more.
	touch(region, 3 * PAGE);
	holds("udmabuf", region + PAGE, buffer, -1, -1);
	mark("shmem", region, 1, 1, "udmabuf");
}

static void remote(void)
{
	char *page = base_pages(1);
	check(madvise(page, PAGE, MADV_DONTFORK) == 0, "madvise(MADV_DONTFORK)");
	in_child(read_remote_for_ever, page);
	// The child is the last one so far.
	uint64_t pfn = pfn_of(page);
	char path[64];
	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", getpid(), getpid());
	static char text[64];
	check(read_file(path, text, sizeof(text)) == 0, path);
	int slot = holds_pfn("process-vm", pfn, -1, -1, -1);
	for (int i = 0; i < holdings->count; i++)
		if (holdings->holding[i].holder == slot)
			holdings->holding[i].pid = atoi(text);
	mark("anon", page, 0, 1, "process_vm_readv");
}

// A folio that is held in several ways.
static void mixed(void)
{
	char *region = thp();
	int ends[2];
	int ring = register_buffer(region + PAGE, PAGE), socket = register_umem(region + 2 * PAGE, PAGE);
	into_pipe(ends, region + 3 * PAGE);
	holds("io-uring", region, ring, 0, 1);
	holds("xdp", region, socket, 0, 1);
	holds("pipe", region, ends[0], 1, 0);
	mark_folio("anon-thp", region, pfn_of(region), 512, 1, "three kinds");
}

static void mixed_base(void)
{
	char *page = base_pages(1);
	int ends[2], others[2];
	int ring = register_buffer(page, PAGE), socket = register_umem(page, PAGE);
	into_pipe(ends, page);
	into_pipe(others, page);
	holds("io-uring", page, ring, 0, 1);
	holds("xdp", page, socket, 0, 1);
	holds("pipe", page, ends[0], 1, 0);
	holds("pipe", page, others[1], 1, 0);
	mark("anon", page, 0, 1, "three kinds");
}

const struct scenario scenarios_memory[] = {
	{"uring_buffers", uring_buffers},
	{"uring_thrice", uring_thrice},
	{"uring_thp", uring_thp},
	{"uring_unmapped", uring_unmapped},
	{"uring_cloned", uring_cloned},
	{"uring_provided", uring_provided},
	{"uring_own_rings", uring_own_rings},
	{"umem", umem},
	{"udmabuf", udmabuf},
	{"remote", remote},
	{"mixed", mixed},
	{"mixed_base", mixed_base},
	{0},
};
