// SPDX-License-Identifier: LGPL-2.1-or-later
// Pages pinned for as long as somebody likes (FOLL_LONGTERM). Up to 5.10 they stay where they are; later kernels move
// them out of ZONE_MOVABLE before they are pinned.
#include "pins.h"

#include <linux/udmabuf.h>
#include <sys/ioctl.h>

// The middle one of three base pages is pinned.
static void mark_three(char *region)
{
	const char *place = place_of(region + PAGE);
	for (int i = 0; i < 3; i++) {
		expect_settled(pfn_of(region + i * PAGE), KPF_LRU | KPF_ANON, KPF_THP, "not a base page on the LRU");
		mark("anon", region, i, i == 1, i == 1 ? place : "neighbour");
	}
}

// Page 3 is pinned.
static void mark_thp(char *region)
{
	char note[32];
	snprintf(note, sizeof(note), "page 3, %s", place_of(region));
	expect_settled(pfn_of(region), KPF_LRU | KPF_ANON | KPF_THP, 0, "not a THP on the LRU");
	mark_folio("anon-thp", region, pfn_of(region), 512, 1, note);
}

static void io_uring_base(void)
{
	char *region = base_pages(3);
	register_buffer(region + PAGE, PAGE);
	mark_three(region);
}

static void io_uring_thp(void)
{
	char *region = thp();
	register_buffer(region + 3 * PAGE, PAGE);
	mark_thp(region);
}

static void io_uring_base_normal(void)
{
	use_normal_zone();
	io_uring_base();
}

static void io_uring_thp_normal(void)
{
	use_normal_zone();
	io_uring_thp();
}

static void xdp_umem(void)
{
	char *region = base_pages(3);
	register_umem(region + PAGE, PAGE);
	mark_three(region);
}

static void xdp_umem_thp(void)
{
	char *region = thp();
	register_umem(region + 3 * PAGE, PAGE);
	mark_thp(region);
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
	check(ioctl(device, UDMABUF_CREATE, &create) >= 0, "UDMABUF_CREATE");
	// What was moved is not mapped any more.
	touch(region, 3 * PAGE);
	const char *place = place_of(region + PAGE);
	for (int i = 0; i < 3; i++) {
		expect_settled(pfn_of(region + i * PAGE), KPF_LRU | KPF_SWAPBACKED, KPF_ANON, "not a page of a memfd");
		mark("shmem", region, i, i == 1, i == 1 ? place : "neighbour");
	}
}

const struct scenario scenarios_longterm[] = {
	{"io_uring_base", io_uring_base},
	{"io_uring_thp", io_uring_thp},
	{"io_uring_base_normal", io_uring_base_normal},
	{"io_uring_thp_normal", io_uring_thp_normal},
	{"xdp_umem", xdp_umem},
	{"xdp_umem_thp", xdp_umem_thp},
	{"udmabuf", udmabuf},
	{0},
};
