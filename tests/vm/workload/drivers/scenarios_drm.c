// SPDX-License-Identifier: LGPL-2.1-or-later
// Buffers of a graphics driver that has no hardware.
#include "../holders/holders.h"

#include <sys/ioctl.h>

// Of the kernel's headers, these are not among those of the C library.
struct version {
	int major, minor, patch;
	size_t name_length;
	char *name;
	size_t date_length;
	char *date;
	size_t text_length;
	char *text;
};

struct dumb {
	uint32_t height, width, bpp, flags, handle, pitch;
	uint64_t size;
};

struct map {
	uint32_t handle, padding;
	uint64_t offset;
};

struct prime {
	uint32_t handle, flags;
	int32_t fd;
};

static int open_card(void)
{
	for (int i = 0; i < 8; i++) {
		char path[32], name[8] = "";
		struct version version = {.name = name, .name_length = sizeof(name) - 1};
		snprintf(path, sizeof(path), "/dev/dri/card%d", i);
		int card = open(path, O_RDWR | O_CLOEXEC);
		if (card >= 0 && ioctl(card, _IOWR('d', 0x00, version), &version) == 0 && !strcmp(name, "vgem"))
			return card;
		close(card);
	}
	fail("no vgem");
}

// A buffer of five pages. Page tables do not tell which pages these are, so they are found by what is written in them:
// in halves that lie apart here, so that the whole of it is nowhere else in memory.
static struct dumb buffer(int card, const char *name)
{
	struct dumb create = {.width = PAGE / 4, .height = 5, .bpp = 32};
	struct map map = {0};
	char half[33];
	check(ioctl(card, _IOWR('d', 0xb2, create), &create) == 0, "DRM_IOCTL_MODE_CREATE_DUMB");
	map.handle = create.handle;
	check(ioctl(card, _IOWR('d', 0xb3, map), &map) == 0, "DRM_IOCTL_MODE_MAP_DUMB");
	char *region = mmap(NULL, create.size, PROT_READ | PROT_WRITE, MAP_SHARED, card, map.offset);
	check(region != MAP_FAILED, "mmap of a buffer");
	for (size_t i = 0; i < create.size; i += 32) {
		snprintf(half, sizeof(half), i % 64 ? "%32s" : "%-32s", i % 64 ? "of drgn_thp's lab" : name);
		memcpy(region + i, half, 32);
	}
	snprintf(half, sizeof(half), "sig=%s", name);
	mark_pfn("shmem", 0, 0, 1, half);
	return create;
}

static void drm_open(void)
{
	buffer(open_card(), "drm_open");
}

// Only as a DMA buffer.
static void drm_exported(void)
{
	int card = open_card();
	struct dumb made = buffer(card, "drm_exported");
	struct prime export = {.handle = made.handle, .flags = O_CLOEXEC | O_RDWR};
	check(ioctl(card, _IOWR('d', 0x2d, export), &export) == 0, "DRM_IOCTL_PRIME_HANDLE_TO_FD");
	check(ioctl(card, _IOWR('d', 0xb4, uint32_t), &made.handle) == 0, "DRM_IOCTL_MODE_DESTROY_DUMB");
	close(card);
}

const struct scenario scenarios_drm[] = {
	{"drm_open", drm_open},
	{"drm_exported", drm_exported},
	{0},
};
