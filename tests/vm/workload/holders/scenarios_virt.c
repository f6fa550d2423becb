// SPDX-License-Identifier: LGPL-2.1-or-later
// Memory that was given to devices and to other machines.
#include "holders.h"

#include <dirent.h>
#include <linux/vfio.h>
#include <sys/ioctl.h>

// The devices that are there for this only, by what their maker calls them.
#define TEST_DEVICE "0x1b36 0x0005"

static int is_test_device(const char *name)
{
	char path[320], vendor[16], device[16], both[40];
	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/vendor", name);
	if (read_file(path, vendor, sizeof(vendor)))
		return 0;
	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/device", name);
	if (read_file(path, device, sizeof(device)))
		return 0;
	snprintf(both, sizeof(both), "%.6s %.6s", vendor, device);
	return !strcmp(both, TEST_DEVICE);
}

// Gives one of them to vfio, and returns its group, open.
static int open_vfio_group(int number)
{
	char path[320], link[128] = "";
	DIR *devices = opendir("/sys/bus/pci/devices");
	struct dirent *entry = NULL;
	check(devices != NULL, "no PCI devices");
	while ((entry = readdir(devices)))
		if (is_test_device(entry->d_name) && number-- == 0)
			break;
	check(entry != NULL, "no device for vfio");
	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/driver_override", entry->d_name);
	check(write_file(path, "vfio-pci") == 0, path);
	write_file("/sys/bus/pci/drivers_probe", entry->d_name);
	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/iommu_group", entry->d_name);
	check(readlink(path, link, sizeof(link) - 1) > 0, path);
	snprintf(path, sizeof(path), "/dev/vfio/%s", strrchr(link, '/') + 1);
	int group = open(path, O_RDWR);
	check(group >= 0, path);
	closedir(devices);
	return group;
}

static int open_vfio_container(int group)
{
	int container = open("/dev/vfio/vfio", O_RDWR);
	check(container >= 0, "/dev/vfio/vfio");
	check(ioctl(group, VFIO_GROUP_SET_CONTAINER, &container) == 0, "VFIO_GROUP_SET_CONTAINER");
	check(ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU) == 0, "VFIO_SET_IOMMU");
	return container;
}

static void map_dma(int container, void *start, size_t size, uint64_t iova)
{
	struct vfio_iommu_type1_dma_map map = {
		.argsz = sizeof(map),
		.flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
		.vaddr = (uintptr_t)start,
		.iova = iova,
		.size = size,
	};
	check(ioctl(container, VFIO_IOMMU_MAP_DMA, &map) == 0, "VFIO_IOMMU_MAP_DMA");
}

static void share_four(void *holders)
{
	for (int i = 0; i < 4; i++)
		shares(((int *)holders)[i]);
}

// As for a virtual machine: small pages, a page at two addresses, and huge pages; of two processes.
static void vfio(void)
{
	int group = open_vfio_group(0), container = open_vfio_container(group), numbers[4];
	char *region = base_pages(3), *huge = thp();
	check(madvise(region, 3 * PAGE, MADV_DONTFORK) == 0, "madvise(MADV_DONTFORK)");
	check(madvise(huge, THP, MADV_DONTFORK) == 0, "madvise(MADV_DONTFORK)");
	map_dma(container, region, 3 * PAGE, 1 << 20);
	map_dma(container, region + PAGE, PAGE, 2 << 20);
	map_dma(container, huge, THP, 4 << 20);
	for (int i = 0; i < 3; i++)
		numbers[i] = holds("vfio", region + i * PAGE, container, 0, i == 1 ? 2 : 1);
	numbers[3] = holds("vfio", huge, group, 0, 512);
	in_child(share_four, numbers);
	for (int i = 0; i < 3; i++)
		mark("anon", region, i, 1, "vfio");
	mark_folio("anon-thp", huge, pfn_of(huge), 512, 1, "vfio");
}

// The container is open through its group alone; what was pinned is not what the process has at the address any more.
static void vfio_remapped(void)
{
	int group = open_vfio_group(1), container = open_vfio_container(group);
	char *region = base_pages(2);
	map_dma(container, region, 2 * PAGE, 0);
	close(container);
	touch(region, 2 * PAGE);
	uint64_t pfn = pfn_of(region + PAGE);
	holds("vfio", region, group, 0, 1);
	holds("vfio", region + PAGE, group, 0, 1);
	mark("anon", region, 0, 1, "vfio");
	check(mmap(region + PAGE, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
		      region + PAGE, "mmap");
	fill(region + PAGE, PAGE);
	mark_pfn("anon", pfn, 1, 1, "unmapped");
}

const struct scenario scenarios_virt[] = {
	{"vfio", vfio},
	{"vfio_remapped", vfio_remapped},
	{0},
};
