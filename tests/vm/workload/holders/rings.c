// SPDX-License-Identifier: LGPL-2.1-or-later
// io_uring, as far as the scenarios want it.
#include "holders.h"

#include <errno.h>
#include <linux/io_uring.h>

#define SETUP_NO_MMAP (1U << 14)
#define REGISTER_CLONE_BUFFERS 30

struct ring open_ring(unsigned int flags, void *rings, void *entries)
{
	struct io_uring_params parameters = {.flags = flags | (rings ? SETUP_NO_MMAP : 0)};
	struct ring ring = {.rings = rings, .entries = entries};
	// The last 64 bits of each: user_addr, in newer headers than these may be.
	memcpy((char *)&parameters.cq_off + sizeof(parameters.cq_off) - 8, &rings, 8);
	memcpy((char *)&parameters.sq_off + sizeof(parameters.sq_off) - 8, &entries, 8);
	ring.fd = syscall(SYS_io_uring_setup, 4, &parameters);
	if (ring.fd < 0 && rings && errno == EINVAL)
		lacks("no rings in memory of the process");
	check(ring.fd >= 0, "io_uring_setup");
	if (rings)
		return ring;
	ring.rings = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring.fd, IORING_OFF_SQ_RING);
	ring.entries = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring.fd, IORING_OFF_SQES);
	check(ring.rings != MAP_FAILED && ring.entries != MAP_FAILED, "mmap of an io_uring");
	// Where the kernel put them, for submit_read(): kept in the entry that is never used.
	memcpy((char *)ring.entries + 3 * sizeof(struct io_uring_sqe), &parameters.sq_off, sizeof(parameters.sq_off));
	return ring;
}

void submit_read(const struct ring *ring, int disk, void *page)
{
	struct io_sqring_offsets at;
	struct io_uring_sqe *entry = ring->entries;
	char *rings = ring->rings;
	memcpy(&at, (char *)ring->entries + 3 * sizeof(*entry), sizeof(at));
	memset(entry, 0, sizeof(*entry));
	entry->opcode = IORING_OP_READ;
	entry->fd = disk;
	entry->addr = (uintptr_t)page;
	entry->len = PAGE;
	((uint32_t *)(rings + at.array))[0] = 0;
	__atomic_store_n((uint32_t *)(rings + at.tail), 1, __ATOMIC_RELEASE);
	check(syscall(SYS_io_uring_enter, ring->fd, 1, 0, 0, NULL, 0) == 1, "io_uring_enter");
}

void register_buffer_ring(int ring, void *page, int group)
{
	struct io_uring_buf_reg request = {.ring_addr = (uintptr_t)page, .ring_entries = 8, .bgid = group};
	if (syscall(SYS_io_uring_register, ring, IORING_REGISTER_PBUF_RING, &request, 1) < 0)
		lacks("no rings of provided buffers");
}

void register_file(int ring, int fd)
{
	check(syscall(SYS_io_uring_register, ring, IORING_REGISTER_FILES, &fd, 1) == 0, "IORING_REGISTER_FILES");
}

int clone_buffers(int ring, int from)
{
	struct {
		uint32_t from, flags, from_offset, to_offset, count, padding[3];
	} request = {.from = from};
	return syscall(SYS_io_uring_register, ring, REGISTER_CLONE_BUFFERS, &request, 1) == 0;
}
