// SPDX-License-Identifier: LGPL-2.1-or-later
// Having pages held, in ways that scenarios of more than one program use.
#include "pins.h"

#include <arpa/inet.h>
#include <linux/aio_abi.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/if_xdp.h>
#include <linux/io_uring.h>
#include <linux/perf_event.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>

#ifndef AF_XDP
#define AF_XDP 44
#endif
#ifndef SOL_XDP
#define SOL_XDP 283
#endif

void into_pipe(int ends[2], void *page)
{
	struct iovec piece = {page, PAGE};
	check(pipe(ends) == 0 && vmsplice(ends[1], &piece, 1, 0) == (ssize_t)PAGE, "vmsplice");
}

void from_file(int ends[2], int fd)
{
	loff_t start = 0;
	check(pipe(ends) == 0 && splice(fd, &start, ends[1], NULL, PAGE, 0) == (ssize_t)PAGE, "splice");
}

void send_descriptor(int socket, int fd)
{
	char byte = 0;
	union {
		char space[CMSG_SPACE(sizeof(int))];
		struct cmsghdr header;
	} control = {.header = {.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS}};
	struct iovec piece = {&byte, 1};
	struct msghdr message = {
		.msg_iov = &piece, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
	memcpy(CMSG_DATA(&control.header), &fd, sizeof(int));
	check(sendmsg(socket, &message, 0) == 1, "sendmsg");
}

void raise_loopback(void)
{
	struct ifreq loopback = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_LOOPBACK | IFF_RUNNING};
	int any = socket(AF_INET, SOCK_DGRAM, 0);
	check(any >= 0 && ioctl(any, SIOCSIFFLAGS, &loopback) == 0, "no loopback");
	close(any);
}

int blocked_connection(void)
{
	static char ballast[128 << 10];
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
	socklen_t length = sizeof(address);
	int listener = socket(AF_INET, SOCK_STREAM, 0), sender = socket(AF_INET, SOCK_STREAM, 0), on = 1;
	int small = 4096, large = 1 << 20;
	raise_loopback();
	check(setsockopt(listener, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small)) == 0, "SO_RCVBUF");
	check(bind(listener, (struct sockaddr *)&address, length) == 0 && listen(listener, 1) == 0, "listen");
	check(getsockname(listener, (struct sockaddr *)&address, &length) == 0, "getsockname");
	check(setsockopt(sender, SOL_SOCKET, SO_SNDBUFFORCE, &large, sizeof(large)) == 0, "SO_SNDBUF");
	check(setsockopt(sender, SOL_SOCKET, SO_ZEROCOPY, &on, sizeof(on)) == 0, "SO_ZEROCOPY");
	check(connect(sender, (struct sockaddr *)&address, length) == 0, "connect");
	check(accept(listener, NULL, NULL) >= 0, "accept");
	check(send(sender, ballast, sizeof(ballast), MSG_DONTWAIT) == sizeof(ballast), "send");
	return sender;
}

int register_buffers(const struct iovec *buffers, int count)
{
	struct io_uring_params parameters = {0};
	int ring = syscall(SYS_io_uring_setup, 4, &parameters);
	check(ring >= 0, "io_uring_setup");
	int error = syscall(SYS_io_uring_register, ring, IORING_REGISTER_BUFFERS, buffers, count);
	check(error == 0, "IORING_REGISTER_BUFFERS");
	return ring;
}

int register_buffer(void *start, size_t size)
{
	struct iovec buffer = {start, size};
	return register_buffers(&buffer, 1);
}

int register_umem(void *start, size_t size)
{
	struct xdp_umem_reg umem = {.addr = (uintptr_t)start, .len = size, .chunk_size = 2048};
	int fd = socket(AF_XDP, SOCK_RAW, 0);
	check(fd >= 0, "socket(AF_XDP)");
	check(setsockopt(fd, SOL_XDP, XDP_UMEM_REG, &umem, sizeof(umem)) == 0, "XDP_UMEM_REG");
	return fd;
}

void *read_for_ever(void *page, int disk)
{
	aio_context_t context = 0;
	struct iocb block = {
		.aio_lio_opcode = IOCB_CMD_PREAD, .aio_fildes = disk, .aio_buf = (uintptr_t)page, .aio_nbytes = PAGE};
	struct iocb *blocks[] = {&block};
	struct io_event event;
	struct timespec moment = {0, 50 * 1000 * 1000};
	check(syscall(SYS_io_setup, 1, &context) == 0, "io_setup");
	check(syscall(SYS_io_submit, context, 1, blocks) == 1, "io_submit");
	check(syscall(SYS_io_getevents, context, 1, 1, &event, &moment) == 0, "the read came to an end");
	return (void *)context;
}

struct endless_read {
	pid_t from;
	void *page, *into;
};

static void *read_remote(void *argument)
{
	struct endless_read *read = argument;
	struct iovec local = {read->into, PAGE}, remote = {read->page, PAGE};
	process_vm_readv(read->from, &local, 1, &remote, 1, 0);
	fail("process_vm_readv ended");
}

// The remote page is pinned before the first byte is copied to where nobody ever provides a page.
void read_remote_for_ever(void *page)
{
	static struct endless_read read;
	pthread_t thread;
	char *into = aligned_region(PAGE, PAGE);
	struct pollfd faults = {.fd = userfault(into, PAGE), .events = POLLIN};
	read = (struct endless_read){getppid(), page, into};
	check(pthread_create(&thread, NULL, read_remote, &read) == 0, "pthread_create");
	check(poll(&faults, 1, 10000) == 1 && faults.revents == POLLIN, "no page fault was waited for");
}

int open_packet_ring(void)
{
	struct tpacket_req request = {
		.tp_block_size = 4 * PAGE, .tp_block_nr = 2, .tp_frame_size = PAGE / 2, .tp_frame_nr = 16};
	int fd = socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL));
	check(fd >= 0, "socket(AF_PACKET)");
	check(setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &request, sizeof(request)) == 0, "PACKET_RX_RING");
	return fd;
}

int open_perf_event(void)
{
	struct perf_event_attr event = {
		.type = PERF_TYPE_SOFTWARE, .size = sizeof(event), .config = PERF_COUNT_SW_DUMMY, .disabled = 1};
	// Of a CPU: an event of a task has the kernel patch its scheduler, which under emulation may crash it.
	int fd = syscall(SYS_perf_event_open, &event, -1, 0, -1, 0);
	check(fd >= 0, "perf_event_open");
	return fd;
}
