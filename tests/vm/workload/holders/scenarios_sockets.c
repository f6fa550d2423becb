// SPDX-License-Identifier: LGPL-2.1-or-later
// Pages that are on their way, in the queues of sockets.
#include "holders.h"

#include <arpa/inet.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>
#include <sys/socket.h>

static char *send_file(int socket, const char *directory)
{
	int fd = file_of(directory, 1);
	off_t start = 0;
	check(sendfile(socket, fd, &start, PAGE) == (ssize_t)PAGE, "sendfile");
	return map_file(fd, 1);
}

static void written(void)
{
	int sender = blocked_connection();
	char *page = base_pages(1), *file = send_file(sender, "/tmpfs");
	check(send(sender, page, PAGE, MSG_ZEROCOPY | MSG_DONTWAIT) == (ssize_t)PAGE, "send(MSG_ZEROCOPY)");
	holds("socket", page, sender, -1, -1);
	holds("socket", file, sender, -1, 0);
	mark("anon", page, 0, 1, "write queue");
	mark("shmem", file, 0, 1, "write queue");
}

static int listener_at(struct sockaddr_in *address)
{
	socklen_t length = sizeof(*address);
	int listener = socket(AF_INET, SOCK_STREAM, 0);
	*address = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
	check(bind(listener, (struct sockaddr *)address, length) == 0 && listen(listener, 4) == 0, "listen");
	check(getsockname(listener, (struct sockaddr *)address, &length) == 0, "getsockname");
	return listener;
}

static int connected_to(const struct sockaddr_in *address)
{
	int sender = socket(AF_INET, SOCK_STREAM, 0);
	check(connect(sender, (const struct sockaddr *)address, sizeof(*address)) == 0, "connect");
	return sender;
}

// Until all that was sent is acknowledged, it is in a queue of the sender's, too.
static void wait_for_acknowledgement(int sender)
{
	for (int tries = 0; tries < 5000; tries++, usleep(1000)) {
		int left = -1;
		check(ioctl(sender, SIOCOUTQ, &left) == 0, "SIOCOUTQ");
		if (left == 0)
			return;
	}
	fail("what was sent is not acknowledged");
}

static void received(void)
{
	struct sockaddr_in address;
	int listener = listener_at(&address), sender = connected_to(&address), receiver = accept(listener, NULL, NULL);
	check(receiver >= 0, "accept");
	char *page = send_file(sender, "/tmpfs");
	wait_for_acknowledgement(sender);
	holds("socket", page, receiver, -1, 0);
	mark("shmem", page, 0, 1, "receive queue");
}

static void unaccepted(void)
{
	struct sockaddr_in address;
	int listener = listener_at(&address), sender = connected_to(&address);
	char *page = send_file(sender, "/tmpfs");
	wait_for_acknowledgement(sender);
	holds("socket", page, listener, -1, 0);
	mark("shmem", page, 0, 1, "not accepted");
}

// Without a handshake: one end begins to send behind where the other one waits for it.
static int repaired(struct sockaddr_in *own, const struct sockaddr_in *other, uint32_t next, uint32_t wanted)
{
	int fd = socket(AF_INET, SOCK_STREAM, 0), on = 1, off = -1, queue = TCP_SEND_QUEUE;
	struct tcp_repair_window window = {.snd_wl1 = wanted, .snd_wnd = 60000, .max_window = 60000, .rcv_wnd = 60000,
					   .rcv_wup = wanted};
	check(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) == 0, "SO_REUSEADDR");
	if (setsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &on, sizeof(on)))
		lacks("no TCP_REPAIR");
	check(setsockopt(fd, IPPROTO_TCP, TCP_REPAIR_QUEUE, &queue, sizeof(queue)) == 0, "TCP_REPAIR_QUEUE");
	check(setsockopt(fd, IPPROTO_TCP, TCP_QUEUE_SEQ, &next, sizeof(next)) == 0, "TCP_QUEUE_SEQ");
	queue = TCP_RECV_QUEUE;
	check(setsockopt(fd, IPPROTO_TCP, TCP_REPAIR_QUEUE, &queue, sizeof(queue)) == 0, "TCP_REPAIR_QUEUE");
	check(setsockopt(fd, IPPROTO_TCP, TCP_QUEUE_SEQ, &wanted, sizeof(wanted)) == 0, "TCP_QUEUE_SEQ");
	check(bind(fd, (struct sockaddr *)own, sizeof(*own)) == 0, "bind");
	check(connect(fd, (const struct sockaddr *)other, sizeof(*other)) == 0, "connect");
	check(setsockopt(fd, IPPROTO_TCP, TCP_REPAIR_WINDOW, &window, sizeof(window)) == 0, "TCP_REPAIR_WINDOW");
	check(setsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &off, sizeof(off)) == 0, "TCP_REPAIR off");
	return fd;
}

// A gap of a page: it is never filled. The sender keeps what it sent, and both have the same reference.
static void out_of_order(void)
{
	struct sockaddr_in ends[2];
	for (int i = 0; i < 2; i++)
		ends[i] = (struct sockaddr_in){
			.sin_family = AF_INET, .sin_port = htons(4001 + i), .sin_addr = {htonl(INADDR_LOOPBACK)}};
	int receiver = repaired(&ends[0], &ends[1], 50000, 10000);
	int sender = repaired(&ends[1], &ends[0], 10000 + PAGE, 50000);
	char *page = send_file(sender, "/tmpfs");
	struct tcp_info info = {0};
	socklen_t length = sizeof(info);
	check(getsockopt(receiver, IPPROTO_TCP, TCP_INFO, &info, &length) == 0, "TCP_INFO");
	check(info.tcpi_rcv_ooopack >= 1, "nothing came out of order");
	holds("socket", page, receiver, -1, 0);
	mark("shmem", page, 0, 1, "out of order");
}

static void datagram(void)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
	socklen_t length = sizeof(address);
	int receiver = socket(AF_INET, SOCK_DGRAM, 0), sender = socket(AF_INET, SOCK_DGRAM, 0), left = 0;
	check(bind(receiver, (struct sockaddr *)&address, length) == 0, "bind");
	check(getsockname(receiver, (struct sockaddr *)&address, &length) == 0, "getsockname");
	check(connect(sender, (struct sockaddr *)&address, length) == 0, "connect");
	char *page = send_file(sender, "/tmpfs");
	check(ioctl(receiver, FIONREAD, &left) == 0 && left == PAGE, "no datagram came");
	holds("socket", page, receiver, -1, 0);
	mark("shmem", page, 0, 1, "datagram");
}

static void to_unix(void)
{
	int ends[2], sockets[2];
	char *page = base_pages(1);
	into_pipe(ends, page);
	check(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets) == 0, "socketpair");
	check(splice(ends[0], NULL, sockets[0], NULL, PAGE, 0) == (ssize_t)PAGE, "splice to a socket");
	close(ends[0]);
	close(ends[1]);
	holds("socket", page, sockets[1], 1, 0);
	mark("anon", page, 0, 1, "receive queue");
}

static void to_unix_file(void)
{
	int sockets[2];
	check(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets) == 0, "socketpair");
	char *page = send_file(sockets[0], "/tmpfs"), *other = send_file(sockets[1], "/ext4");
	holds("socket", page, sockets[1], 1, 0);
	holds("socket", other, sockets[0], 1, 0);
	mark("shmem", page, 0, 1, "receive queue");
	mark("file", other, 0, 1, "receive queue");
}

// Pages of the kernel's own: no process's, and so without a balance.
static void packets(void)
{
	int fd = open_packet_ring();
	char *ring = mmap(NULL, 8 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	check(ring != MAP_FAILED, "mmap of a ring");
	holds("packet-ring", ring + 5 * PAGE, fd, -1, 0);
}

const struct scenario scenarios_sockets[] = {
	{"written", written},
	{"received", received},
	{"unaccepted", unaccepted},
	{"out_of_order", out_of_order},
	{"datagram", datagram},
	{"to_unix", to_unix},
	{"to_unix_file", to_unix_file},
	{"packets", packets},
	{0},
};
