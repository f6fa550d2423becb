// SPDX-License-Identifier: LGPL-2.1-or-later
// The server, and the process that lends its time to the kernel's end.
#include "nbd.h"
#include "../lab.h"

#include <endian.h>
#include <linux/nbd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

struct request {
	uint32_t magic, type;
	uint64_t cookie, from;
	uint32_t length;
} __attribute__((packed));

struct reply {
	uint32_t magic, error;
	uint64_t cookie;
} __attribute__((packed));

static void all(ssize_t (*move)(int, void *, size_t), int end, void *data, size_t size)
{
	for (size_t done = 0; done < size;) {
		ssize_t some = move(end, (char *)data + done, size - done);
		if (some <= 0)
			_exit(1);
		done += some;
	}
}

static ssize_t send_some(int end, void *data, size_t size)
{
	return write(end, data, size);
}

static void serve_forever(struct nbd *nbd, int end, char *content)
{
	struct request request;
	for (;;) {
		all(read, end, &request, sizeof(request));
		uint32_t type = be32toh(request.type), length = be32toh(request.length);
		char *data = content + be64toh(request.from);
		// What is written is taken in any case: the device would else wait for the socket, not for an answer.
		if (type == NBD_CMD_WRITE)
			all(read, end, data, length);
		if ((type == NBD_CMD_READ && nbd->silent_reads) || (type == NBD_CMD_WRITE && nbd->silent_writes)) {
			nbd->unanswered++;
			continue;
		}
		struct reply reply = {htobe32(NBD_REPLY_MAGIC), 0, request.cookie};
		all(send_some, end, &reply, sizeof(reply));
		if (type == NBD_CMD_READ)
			all(send_some, end, data, length);
	}
}

static void run_device(const char *path, int end, size_t size)
{
	int device = open(path, O_RDWR);
	if (device < 0 || ioctl(device, NBD_SET_BLKSIZE, PAGE) || ioctl(device, NBD_SET_SIZE_BLOCKS, size / PAGE) ||
	    ioctl(device, NBD_SET_SOCK, end))
		_exit(1);
	ioctl(device, NBD_DO_IT);
	_exit(1);
}

struct nbd *nbd_attach(int number, char *content, size_t size)
{
	int ends[2];
	char path[32], state[64], text[32];
	struct nbd *nbd = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	check(nbd != MAP_FAILED && socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0, "socketpair");
	snprintf(path, sizeof(path), "/dev/nbd%d", number);
	snprintf(state, sizeof(state), "/sys/block/nbd%d/size", number);
	if (fork() == 0) {
		close(ends[0]);
		serve_forever(nbd, ends[1], content);
	}
	close(ends[1]);
	if (fork() == 0)
		run_device(path, ends[0], size);
	close(ends[0]);
	for (int tries = 0; tries < 5000; tries++, usleep(1000))
		if (read_file(state, text, sizeof(text)) == 0 && strtoul(text, NULL, 10) == size / 512)
			return nbd;
	fail(path);
}
