// SPDX-License-Identifier: LGPL-2.1-or-later
// Memory that was given to devices and to other machines.
#include "../fuse.h"
#include "holders.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <linux/io_uring.h>
#include <linux/kvm.h>
#include <linux/rds.h>
#include <linux/vfio.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/sysmacros.h>

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
	// The IOMMU of this machine does not deal with interrupts.
	write_file("/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts", "1");
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

// A host's side of a virtual machine of VMware's: its notifications, and a queue pair of two pages each way.
static void vmci(void)
{
	struct {
		uint32_t context, flags;
	} init = {16, 0};
	struct {
		uint64_t address;
		int32_t result;
		uint32_t padding;
	} notify = {0};
	struct {
		uint32_t context, resource, peer, flags;
		uint64_t produce, consume, address, pages;
		int32_t result;
		uint32_t version;
	} pair = {0};
	int version = 11 << 16, fd = open("/dev/vmci", O_RDWR);
	char *page = base_pages(1), *region = base_pages(4);
	check(fd >= 0, "/dev/vmci");
	check(ioctl(fd, _IO(7, 0xa7), &version) >= 0, "IOCTL_VMCI_VERSION2");
	check(ioctl(fd, _IO(7, 0xa0), &init) == 0, "IOCTL_VMCI_INIT_CONTEXT");
	notify.address = (uintptr_t)page;
	check(ioctl(fd, _IO(7, 0xcb), &notify) == 0 && notify.result == 0, "IOCTL_VMCI_SET_NOTIFY");
	pair.context = init.context;
	pair.resource = 4096;
	pair.peer = 2; // VMCI_HOST_CONTEXT_ID
	pair.produce = pair.consume = PAGE;
	pair.address = (uintptr_t)region;
	pair.pages = 4;
	check(ioctl(fd, _IO(7, 0xa8), &pair) == 0 && pair.result >= 0, "IOCTL_VMCI_QUEUEPAIR_ALLOC");
	holds("vmci", page, fd, 1, 0);
	mark("anon", page, 0, 1, "notifications");
	for (int i = 0; i < 4; i++) {
		holds("vmci", region + i * PAGE, fd, 1, 0);
		mark("anon", region, i, 1, "queue pair");
	}
}

// The memory through which a client of OrangeFS gets what is read and written.
static void orangefs(void)
{
	char *region = base_pages(4);
	struct {
		void *start;
		int32_t total, size, count;
	} map = {region, 4 * PAGE, 2 * PAGE, 2};
	static char devices[8192];
	check(read_file("/proc/devices", devices, sizeof(devices)) == 0, "/proc/devices");
	char *name = strstr(devices, " pvfs2-req");
	check(name != NULL, "no device for OrangeFS");
	while (name > devices && name[-1] != '\n')
		name--;
	check(mknod("/dev/pvfs2-req", S_IFCHR | 0600, makedev(atoi(name), 0)) == 0, "mknod");
	int fd = open("/dev/pvfs2-req", O_RDWR | O_NONBLOCK);
	check(fd >= 0, "/dev/pvfs2-req");
	check(ioctl(fd, _IO('k', 4), &map) == 0, "ORANGEFS_DEV_MAP");
	for (int i = 0; i < 4; i++) {
		holds("orangefs", region + i * PAGE, fd, 0, 1);
		mark("anon", region, i, 1, "OrangeFS");
	}
}

// To where there is no way: it waits until there is one.
static void rds(void)
{
	struct sockaddr_in own = {.sin_family = AF_INET, .sin_port = htons(4000), .sin_addr = {htonl(INADDR_LOOPBACK)}};
	struct sockaddr_in other = {.sin_family = AF_INET, .sin_port = htons(4000), .sin_addr = {htonl(0x0a090909)}};
	union {
		char space[CMSG_SPACE(sizeof(uint32_t))];
		struct cmsghdr header;
	} control = {
		.header = {.cmsg_len = CMSG_LEN(sizeof(uint32_t)), .cmsg_level = SOL_RDS, .cmsg_type = RDS_CMSG_ZCOPY_COOKIE}};
	char *region = base_pages(2);
	struct iovec piece = {region, 2 * PAGE};
	struct msghdr message = {.msg_name = &other,
				 .msg_namelen = sizeof(other),
				 .msg_iov = &piece,
				 .msg_iovlen = 1,
				 .msg_control = &control,
				 .msg_controllen = sizeof(control)};
	int fd = socket(AF_RDS, SOCK_SEQPACKET, 0), transport = RDS_TRANS_TCP, on = 1;
	check(fd >= 0, "socket(AF_RDS)");
	check(setsockopt(fd, SOL_RDS, SO_RDS_TRANSPORT, &transport, sizeof(transport)) == 0, "SO_RDS_TRANSPORT");
	check(setsockopt(fd, SOL_SOCKET, SO_ZEROCOPY, &on, sizeof(on)) == 0, "SO_ZEROCOPY");
	check(bind(fd, (struct sockaddr *)&own, sizeof(own)) == 0, "bind");
	check(sendmsg(fd, &message, MSG_ZEROCOPY | MSG_DONTWAIT) == 2 * (ssize_t)PAGE, "sendmsg(MSG_ZEROCOPY)");
	for (int i = 0; i < 2; i++) {
		holds("rds", region + i * PAGE, fd, 1, 0);
		mark("anon", region, i, 1, "RDS");
	}
}

static int served;

static void *read_served(void *page)
{
	if (pread(served, page, 2 * PAGE, 0) >= 0)
		fail("a read of a silent server ended");
	return NULL;
}

static void *write_served(void *page)
{
	if (pwrite(served, page, PAGE, 0) >= 0)
		fail("a write to a silent server ended");
	return NULL;
}

// Without the page cache, so that its server gets the pages themselves.
static void fuse_direct(void)
{
	struct fuse *fuse = fuse_mount("/fuse-direct");
	char *page = base_pages(1), *huge = thp();
	pthread_t reader, writer;
	served = open("/fuse-direct/file", O_RDWR | O_DIRECT);
	check(served >= 0, "open of a served file");
	fuse->silent_reads = fuse->silent_writes = 1;
	check(pthread_create(&reader, NULL, read_served, huge + PAGE) == 0, "pthread_create");
	while (fuse->unanswered < 1)
		usleep(1000);
	check(pthread_create(&writer, NULL, write_served, page) == 0, "pthread_create");
	// Whether the one that writes has to wait for the one that reads is up to the kernel.
	while (fuse->unanswered < 2 && !is_any_thread(getpid(), 'D'))
		usleep(1000);
	holds("fuse", huge, served, -1, -1);
	mark_folio("anon-thp", huge, pfn_of(huge), 512, 1, "read");
	if (fuse->unanswered > 1) {
		holds("fuse", page, served, -1, -1);
		mark("anon", page, 0, 1, "write");
	}
}

// Memory that packets are received into, and that of the ring that gives it back.
static void uring_zcrx(void)
{
	struct {
		uint64_t address, size, token;
		uint32_t flags, dmabuf;
		uint64_t padding[2];
	} area = {0};
	struct {
		uint64_t address, size;
		uint32_t flags, id;
		uint64_t offset, padding[4];
	} region = {0};
	struct {
		uint32_t interface, queue, entries, flags;
		uint64_t area, region;
		uint32_t offsets[8];
		uint32_t id, length;
		uint64_t event, padding[2];
	} request = {.entries = 8, .flags = 2, .area = (uintptr_t)&area, .region = (uintptr_t)&region};
	// IORING_SETUP_CQE32, _SINGLE_ISSUER and _DEFER_TASKRUN
	struct io_uring_params parameters = {.flags = 7 << 11};
	char *pages = base_pages(3);
	int ring = syscall(SYS_io_uring_setup, 4, &parameters);
	area.address = (uintptr_t)pages;
	area.size = 2 * PAGE;
	region.address = (uintptr_t)(pages + 2 * PAGE);
	region.size = PAGE;
	region.flags = 1; // IORING_MEM_REGION_TYPE_USER
	// IORING_REGISTER_ZCRX_IFQ, and of no device
	if (ring < 0 || syscall(SYS_io_uring_register, ring, 32, &request, 1))
		lacks("no reception without copies");
	for (int i = 0; i < 3; i++) {
		holds("io-uring", pages + i * PAGE, ring, 0, 1);
		mark("anon", pages, i, 1, i < 2 ? "area" : "ring");
	}
}

// Memory of a virtual machine that has no process: this one maps it all the same.
static void guest_memfd(void)
{
	struct {
		uint64_t size, flags, padding[6];
	} create = {4 * PAGE, 3, {0}}; // GUEST_MEMFD_FLAG_MMAP and _INIT_SHARED
	int kvm = open("/dev/kvm", O_RDWR), machine;
	check(kvm >= 0, "/dev/kvm");
	machine = ioctl(kvm, KVM_CREATE_VM, 0);
	check(machine >= 0, "KVM_CREATE_VM");
	int fd = ioctl(machine, _IOWR(KVMIO, 0xd4, create), &create);
	if (fd < 0)
		lacks("no guest_memfd of this kind");
	char *region = map_file(fd, 4);
	for (int i = 0; i < 4; i++)
		holds("guest-memfd", region + i * PAGE, fd, 1, 0);
}

// A virtual machine with a CPU, which holds nothing: KVM is told when its memory is moved.
static void kvm_cpu(void)
{
	int kvm = open("/dev/kvm", O_RDWR), machine;
	char *region = base_pages(2);
	struct kvm_userspace_memory_region memory = {.memory_size = 2 * PAGE, .userspace_addr = (uintptr_t)region};
	check(kvm >= 0, "/dev/kvm");
	machine = ioctl(kvm, KVM_CREATE_VM, 0);
	check(machine >= 0, "KVM_CREATE_VM");
	check(ioctl(machine, KVM_SET_USER_MEMORY_REGION, &memory) == 0, "KVM_SET_USER_MEMORY_REGION");
	check(ioctl(machine, KVM_CREATE_VCPU, 0) >= 0, "KVM_CREATE_VCPU");
	mark("anon", region, 0, 0, "virtual machine");
}

// Pages of the kernel's own: no process's, and so without a balance.
static void dma_heap(void)
{
	struct {
		uint64_t size;
		uint32_t fd, fd_flags;
		uint64_t flags;
	} buffer = {.size = 20 * PAGE, .fd_flags = O_RDWR | O_CLOEXEC};
	int heap = open("/dev/dma_heap/system", O_RDWR);
	if (heap < 0)
		lacks("no heap of DMA buffers");
	check(ioctl(heap, _IOWR('H', 0, buffer), &buffer) == 0, "DMA_HEAP_IOCTL_ALLOC");
	// Page tables do not tell which pages these are, so they are found by what is written in them: in halves that lie
	// apart here, so that the whole of it is nowhere else in memory.
	char *region = map_file(buffer.fd, 20), half[33];
	for (size_t i = 0; i < 20 * PAGE; i += 32) {
		snprintf(half, sizeof(half), i % 64 ? "%32s" : "%-32s", i % 64 ? "of drgn_thp's lab" : "dma_heap");
		memcpy(region + i, half, 32);
	}
	mark_pfn("kernel", 0, 0, 1, "sig=dma_heap");
}

const struct scenario scenarios_virt[] = {
	{"vfio", vfio},
	{"vfio_remapped", vfio_remapped},
	{"vmci", vmci},
	{"orangefs", orangefs},
	{"rds", rds},
	{"fuse_direct", fuse_direct},
	{"uring_zcrx", uring_zcrx},
	{"kvm_cpu", kvm_cpu},
	{"guest_memfd", guest_memfd},
	{"dma_heap", dma_heap},
	{0},
};
