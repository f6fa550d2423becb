// SPDX-License-Identifier: LGPL-2.1-or-later
// A network block device whose server falls silent.
//
// It is set up by netlink: a device that was set up by ioctl(2) lives only as long as a process waits in NBD_DO_IT, and
// gives up all requests as soon as that process is so much as stopped.
#include "pins.h"

#include <endian.h>
#include <linux/genetlink.h>
#include <linux/nbd-netlink.h>
#include <linux/nbd.h>
#include <linux/netlink.h>
#include <sys/socket.h>

#define DISK_SIZE (8UL << 20)
#define ATTRIBUTE(message) ((struct nlattr *)((char *)(message) + NLMSG_ALIGN((message)->header.nlmsg_len)))

struct message {
	struct nlmsghdr header;
	struct genlmsghdr command;
	char space[2048];
};

static struct nlattr *add(struct message *message, int type, const void *data, int size)
{
	struct nlattr *attribute = ATTRIBUTE(message);
	attribute->nla_type = type;
	attribute->nla_len = NLA_HDRLEN + size;
	memcpy((char *)attribute + NLA_HDRLEN, data, size);
	message->header.nlmsg_len = NLMSG_ALIGN(message->header.nlmsg_len) + NLA_ALIGN(attribute->nla_len);
	return attribute;
}

static void ask(int netlink, struct message *message, int family, int command)
{
	message->header.nlmsg_type = family;
	message->header.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
	message->command.cmd = command;
	message->command.version = 1;
	check(send(netlink, message, message->header.nlmsg_len, 0) > 0, "send to netlink");
	check(recv(netlink, message, sizeof(*message), 0) > 0, "recv from netlink");
	struct nlmsgerr *error = (struct nlmsgerr *)&message->command;
	check(message->header.nlmsg_type != NLMSG_ERROR || error->error == 0, "netlink refused");
}

static int nbd_family(int netlink)
{
	struct message message = {.header.nlmsg_len = NLMSG_LENGTH(GENL_HDRLEN)};
	add(&message, CTRL_ATTR_FAMILY_NAME, NBD_GENL_FAMILY_NAME, sizeof(NBD_GENL_FAMILY_NAME));
	ask(netlink, &message, GENL_ID_CTRL, CTRL_CMD_GETFAMILY);
	char *end = (char *)&message + message.header.nlmsg_len;
	for (char *at = message.space; at < end; at += NLA_ALIGN(((struct nlattr *)at)->nla_len))
		if (((struct nlattr *)at)->nla_type == CTRL_ATTR_FAMILY_ID)
			return *(uint16_t *)(at + NLA_HDRLEN);
	fail("no nbd in netlink");
}

static void attach(uint32_t number, uint32_t end)
{
	uint64_t size = DISK_SIZE, block = PAGE;
	struct message message = {.header.nlmsg_len = NLMSG_LENGTH(GENL_HDRLEN)};
	// An answer and an acknowledgement each: a socket of its own for every question, and the rest is not read.
	int family = nbd_family(socket(AF_NETLINK, SOCK_RAW, NETLINK_GENERIC));
	add(&message, NBD_ATTR_INDEX, &number, sizeof(number));
	add(&message, NBD_ATTR_SIZE_BYTES, &size, sizeof(size));
	add(&message, NBD_ATTR_BLOCK_SIZE_BYTES, &block, sizeof(block));
	struct nlattr *sockets = add(&message, NBD_ATTR_SOCKETS | NLA_F_NESTED, NULL, 0);
	struct nlattr *item = add(&message, NBD_SOCK_ITEM | NLA_F_NESTED, NULL, 0);
	add(&message, NBD_SOCK_FD, &end, sizeof(end));
	item->nla_len = (char *)ATTRIBUTE(&message) - (char *)item;
	sockets->nla_len = (char *)ATTRIBUTE(&message) - (char *)sockets;
	ask(socket(AF_NETLINK, SOCK_RAW, NETLINK_GENERIC), &message, family, NBD_CMD_CONNECT);
}

// What is not in the image reads as zeros. Once silent, it waits until nobody can write to the pipe.
static void serve(int end, int alive, int image, volatile int *silent)
{
	static struct {
		struct nbd_reply reply;
		char data[DISK_SIZE];
	} __attribute__((packed)) answer;
	struct nbd_request request;
	char byte;
	while (read(end, &request, sizeof(request)) == sizeof(request)) {
		ssize_t size = sizeof(answer.reply) + be32toh(request.len);
		answer.reply.magic = htobe32(NBD_REPLY_MAGIC);
		memcpy(answer.reply.handle, request.handle, sizeof(request.handle));
		if (request.type == htobe32(NBD_CMD_WRITE)) {
			// Taken in any case: the device would else wait for the socket, not for an answer.
			if (recv(end, answer.data, be32toh(request.len), MSG_WAITALL) != (ssize_t)be32toh(request.len) ||
			    pwrite(image, answer.data, be32toh(request.len), be64toh(request.from)) < 0)
				break;
			size = sizeof(answer.reply);
		} else if (image >= 0 && pread(image, answer.data, be32toh(request.len), be64toh(request.from)) < 0) {
			break;
		}
		if (*silent && read(alive, &byte, 1) == 0) {
			answer.reply.error = htobe32(5);
			size = sizeof(answer.reply);
		}
		if (send(end, &answer, size, MSG_WAITALL) != size)
			break;
	}
	_exit(0);
}

volatile int *attach_silent_disk(int number, const char *path)
{
	int ends[2], alive[2], image = path ? open(path, O_RDWR) : -1;
	volatile int *silent = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	check(silent != MAP_FAILED && pipe(alive) == 0, "pipe");
	check(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0, "socketpair");
	// A process that is to end waits for its requests first. So it cannot be what tells the server to give them up,
	// and the server must not end with it.
	if (fork() == 0) {
		setpgid(0, 0);
		close(alive[1]);
		close(ends[0]);
		serve(ends[1], alive[0], image, silent);
	}
	if (fork() == 0)
		for (;;)
			pause();
	close(alive[1]);
	close(ends[1]);
	attach(number, ends[0]);
	close(alive[0]);
	close(ends[0]);
	if (image >= 0)
		close(image);
	return silent;
}

int silent_disk(int number)
{
	char path[32];
	volatile int *silent = attach_silent_disk(number, NULL);
	snprintf(path, sizeof(path), "/dev/nbd%d", number);
	int fd = open(path, O_RDONLY | O_DIRECT);
	check(fd >= 0, path);
	*silent = 1;
	return fd;
}
