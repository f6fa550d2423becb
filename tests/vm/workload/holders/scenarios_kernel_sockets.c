// SPDX-License-Identifier: LGPL-2.1-or-later
// Pages of sockets that are in none of the usual queues: records of TLS, maps of sockets, backlogs and error queues.
#include "holders.h"

#include <arpa/inet.h>
#include <linux/bpf.h>
#include <linux/errqueue.h>
#include <linux/net_tstamp.h>
#include <linux/sock_diag.h>
#include <linux/sockios.h>
#include <linux/tls.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>
#include <sys/socket.h>

#define RECORD_PAGES 4

// The second one takes little at a time, if it is said how much.
static void connect_pair(int ends[2], int window)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
	socklen_t length = sizeof(address);
	int listener = socket(AF_INET, SOCK_STREAM, 0);
	ends[0] = socket(AF_INET, SOCK_STREAM, 0);
	check(!window || setsockopt(listener, SOL_SOCKET, SO_RCVBUF, &window, sizeof(window)) == 0, "SO_RCVBUF");
	check(bind(listener, (struct sockaddr *)&address, length) == 0 && listen(listener, 1) == 0, "listen");
	check(getsockname(listener, (struct sockaddr *)&address, &length) == 0, "getsockname");
	check(connect(ends[0], (struct sockaddr *)&address, length) == 0, "connect");
	ends[1] = accept(listener, NULL, NULL);
	check(ends[1] >= 0, "accept");
	close(listener);
}

static void wait_for_acknowledgement(int sender)
{
	int left = -1;
	for (int tries = 0; tries < 5000 && left; tries++, usleep(1000))
		check(ioctl(sender, SIOCOUTQ, &left) == 0, "SIOCOUTQ");
	check(left == 0, "what was sent is not acknowledged");
}

static char *send_page(int socket)
{
	int fd = file_of("/tmpfs", 1);
	off_t start = 0;
	check(sendfile(socket, fd, &start, PAGE) == (ssize_t)PAGE, "sendfile");
	return map_file(fd, 1);
}

// --- TLS

// A connection of which the other end takes no more, with room for a little that is to be sent.
static int full_tls(void)
{
	static char ballast[PAGE];
	struct tls12_crypto_info_aes_gcm_128 keys = {
		.info = {.version = TLS_1_2_VERSION, .cipher_type = TLS_CIPHER_AES_GCM_128}};
	uint32_t memory[SK_MEMINFO_VARS];
	socklen_t length = sizeof(memory);
	int ends[2], size = 64 << 10;
	// So that each packet is small, and there is no room for all of a record.
	connect_pair(ends, PAGE);
	check(setsockopt(ends[0], SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size)) == 0, "SO_SNDBUF");
	while (send(ends[0], ballast, sizeof(ballast), MSG_DONTWAIT) > 0)
		;
	check(getsockopt(ends[0], SOL_SOCKET, SO_MEMINFO, memory, &length) == 0, "SO_MEMINFO");
	// The kernel doubles it.
	size = (memory[SK_MEMINFO_WMEM_QUEUED] + PAGE / 2) / 2;
	check(setsockopt(ends[0], SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size)) == 0, "SO_SNDBUF");
	if (setsockopt(ends[0], IPPROTO_TCP, TCP_ULP, "tls", 4))
		lacks("no TLS");
	check(setsockopt(ends[0], SOL_TLS, TLS_TX, &keys, sizeof(keys)) == 0, "TLS_TX");
	check(fcntl(ends[0], F_SETFL, O_NONBLOCK) == 0, "O_NONBLOCK");
	return ends[0];
}

// A record that is encrypted, and not yet sent, still has what it was made of.
static void tls_sent(void)
{
	int socket = full_tls();
	char *pages = base_pages(RECORD_PAGES);
	check(send(socket, pages, RECORD_PAGES * PAGE, MSG_DONTWAIT) == RECORD_PAGES * PAGE, "send");
	for (int i = 0; i < RECORD_PAGES; i++) {
		holds("tls", pages + i * PAGE, socket, 1, 0);
		mark("anon", pages, i, 1, "TLS");
	}
}

static void tls_spliced(void)
{
	int socket = full_tls(), ends[2], fd = file_of("/tmpfs", RECORD_PAGES);
	loff_t start = 0;
	check(pipe(ends) == 0 && splice(fd, &start, ends[1], NULL, RECORD_PAGES * PAGE, 0) == RECORD_PAGES * PAGE, "splice");
	check(splice(ends[0], NULL, socket, NULL, RECORD_PAGES * PAGE, 0) == RECORD_PAGES * PAGE, "splice to TLS");
	char *pages = map_file(fd, RECORD_PAGES);
	for (int i = 0; i < RECORD_PAGES; i++) {
		holds("tls", pages + i * PAGE, socket, 1, 0);
		mark("shmem", pages, i, 1, "TLS");
	}
}

// --- maps of sockets

static int bpf(int command, union bpf_attr *attributes)
{
	return syscall(SYS_bpf, command, attributes, sizeof(*attributes));
}

static int load_program(int type, const struct bpf_insn *instructions, int number)
{
	union bpf_attr load = {.prog_type = type, .insns = (uintptr_t)instructions, .insn_cnt = number,
			       .license = (uintptr_t) "GPL"};
	int program = bpf(BPF_PROG_LOAD, &load);
	check(program >= 0, "BPF_PROG_LOAD");
	return program;
}

static int make_map(void)
{
	union bpf_attr create = {.map_type = BPF_MAP_TYPE_SOCKMAP, .key_size = 4, .value_size = 4, .max_entries = 1};
	int map = bpf(BPF_MAP_CREATE, &create);
	check(map >= 0, "BPF_MAP_CREATE");
	return map;
}

static void attach_program(int map, int program, int type)
{
	union bpf_attr attach = {.target_fd = map, .attach_bpf_fd = program, .attach_type = type};
	check(bpf(BPF_PROG_ATTACH, &attach) == 0, "BPF_PROG_ATTACH");
}

static void put_into_map(int map, int socket)
{
	int key = 0;
	union bpf_attr update = {.map_fd = map, .key = (uintptr_t)&key, .value = (uintptr_t)&socket};
	check(bpf(BPF_MAP_UPDATE_ELEM, &update) == 0, "BPF_MAP_UPDATE_ELEM");
}

// What is sent is kept until there is more of it.
static void sockmap_corked(void)
{
	static const struct bpf_insn cork[] = {
		{.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 2, .imm = 1 << 20},
		{.code = BPF_JMP | BPF_CALL, .imm = BPF_FUNC_msg_cork_bytes},
		{.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0, .imm = SK_PASS},
		{.code = BPF_JMP | BPF_EXIT},
	};
	if (!is_before(6, 5))
		lacks("what is corked is copied");
	int ends[2], map = make_map();
	connect_pair(ends, 0);
	attach_program(map, load_program(BPF_PROG_TYPE_SK_MSG, cork, ARRAY_SIZE(cork)), BPF_SK_MSG_VERDICT);
	put_into_map(map, ends[0]);
	char *page = send_page(ends[0]);
	holds("socket", page, ends[0], 1, 0);
	mark("shmem", page, 0, 1, "corked");
}

// What has come was let pass by a program, and is in a queue of the map's from then on.
static void sockmap_received(void)
{
	static const struct bpf_insn length[] = {
		{.code = BPF_LDX | BPF_MEM | BPF_W, .dst_reg = 0, .src_reg = 1},
		{.code = BPF_JMP | BPF_EXIT},
	};
	static const struct bpf_insn pass[] = {
		{.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0, .imm = SK_PASS},
		{.code = BPF_JMP | BPF_EXIT},
	};
	// 5.10 copies it, or hangs.
	if (is_before(5, 12))
		lacks("what has come is copied");
	int ends[2], map = make_map();
	connect_pair(ends, 0);
	attach_program(map, load_program(BPF_PROG_TYPE_SK_SKB, length, ARRAY_SIZE(length)), BPF_SK_SKB_STREAM_PARSER);
	attach_program(map, load_program(BPF_PROG_TYPE_SK_SKB, pass, ARRAY_SIZE(pass)), BPF_SK_SKB_STREAM_VERDICT);
	put_into_map(map, ends[1]);
	char *page = send_page(ends[0]);
	wait_for_acknowledgement(ends[0]);
	usleep(300 * 1000);
	holds("socket", page, ends[1], 1, 0);
	mark("shmem", page, 0, 1, "sockmap");
}

// --- backlogs and error queues

// With the time at which it was sent comes what was sent.
static void error_queue(void)
{
	static char data[PAGE];
	int ends[2], wanted = SOF_TIMESTAMPING_TX_SOFTWARE | SOF_TIMESTAMPING_SOFTWARE;
	connect_pair(ends, 0);
	check(setsockopt(ends[0], SOL_SOCKET, SO_TIMESTAMPING, &wanted, sizeof(wanted)) == 0, "SO_TIMESTAMPING");
	char *page = send_page(ends[0]);
	check(recv(ends[1], data, PAGE, MSG_WAITALL) == (ssize_t)PAGE, "recv");
	wait_for_acknowledgement(ends[0]);
	struct pollfd error = {.fd = ends[0]};
	check(poll(&error, 1, 10000) == 1 && error.revents & POLLERR, "nothing in the error queue");
	holds("socket", page, ends[0], 1, 0);
	mark("shmem", page, 0, 1, "error queue");
}

struct receiving {
	int fd;
	char *into;
};

static void *receive_now(void *argument)
{
	struct receiving *receiving = argument;
	recv(receiving->fd, receiving->into, PAGE, 0);
	fail("recv ended");
	return NULL;
}

// Who receives has the socket to itself, and gets no further: what comes meanwhile waits.
static void backlog(void)
{
	static struct receiving receiving;
	int ends[2];
	connect_pair(ends, 0);
	char *into = aligned_region(PAGE, PAGE);
	struct pollfd faults = {.fd = userfault(into, PAGE), .events = POLLIN};
	receiving = (struct receiving){ends[1], into};
	check(send(ends[0], "x", 1, 0) == 1, "send");
	wait_for_acknowledgement(ends[0]);
	start_thread(receive_now, &receiving);
	check(poll(&faults, 1, 10000) == 1 && faults.revents == POLLIN, "no page fault was waited for");
	char *page = send_page(ends[0]);
	holds("socket", page, ends[1], -1, 0);
	mark("shmem", page, 0, 1, "backlog");
}

const struct scenario scenarios_kernel_sockets[] = {
	{"tls_sent", tls_sent},
	{"tls_spliced", tls_spliced},
	{"sockmap_corked", sockmap_corked},
	{"sockmap_received", sockmap_received},
	{"error_queue", error_queue},
	{"backlog", backlog},
	{0},
};
