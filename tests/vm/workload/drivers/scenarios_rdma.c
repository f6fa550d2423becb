// SPDX-License-Identifier: LGPL-2.1-or-later
// Memory that is registered for RDMA, over a network that is none.
#include "../holders/holders.h"

#include <linux/netlink.h>
#include <rdma/ib_user_verbs.h>
#include <rdma/rdma_netlink.h>
#include <sys/socket.h>

static size_t attribute(char *at, int type, const char *text)
{
	struct nlattr header = {.nla_len = NLA_HDRLEN + strlen(text) + 1, .nla_type = type};
	memcpy(at, &header, sizeof(header));
	memcpy(at + NLA_HDRLEN, text, strlen(text) + 1);
	return NLA_ALIGN(header.nla_len);
}

// A device of which all there is is software.
static void add_rxe(const char *name, const char *interface)
{
	char request[256] = {0}, answer[1024];
	struct nlmsghdr header = {
		.nlmsg_type = RDMA_NL_GET_TYPE(RDMA_NL_NLDEV, RDMA_NLDEV_CMD_NEWLINK),
		.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK,
		.nlmsg_len = NLMSG_HDRLEN,
	};
	int fd = socket(AF_NETLINK, SOCK_RAW, NETLINK_RDMA);
	check(fd >= 0, "socket(NETLINK_RDMA)");
	header.nlmsg_len += attribute(request + header.nlmsg_len, RDMA_NLDEV_ATTR_DEV_NAME, name);
	header.nlmsg_len += attribute(request + header.nlmsg_len, RDMA_NLDEV_ATTR_LINK_TYPE, "rxe");
	header.nlmsg_len += attribute(request + header.nlmsg_len, RDMA_NLDEV_ATTR_NDEV_NAME, interface);
	memcpy(request, &header, sizeof(header));
	check(send(fd, request, header.nlmsg_len, 0) == (ssize_t)header.nlmsg_len, "send to netlink");
	check(recv(fd, answer, sizeof(answer), 0) >= (ssize_t)(NLMSG_HDRLEN + sizeof(struct nlmsgerr)), "netlink");
	const struct nlmsgerr *error = NLMSG_DATA((struct nlmsghdr *)answer);
	check(error->error == 0, "RDMA_NLDEV_CMD_NEWLINK");
	close(fd);
}

static void command(int fd, int number, void *request, size_t size, size_t answer)
{
	struct ib_uverbs_cmd_hdr header = {number, size / 4, answer / 4};
	memcpy(request, &header, sizeof(header));
	check(write(fd, request, size) == (ssize_t)size, "a command to a device for RDMA");
}

static int open_device(const char *path)
{
	int fd = -1;
	for (int tries = 0; fd < 0 && tries < 500; tries++, usleep(10000))
		fd = open(path, O_RDWR);
	check(fd >= 0, path);
	return fd;
}

static void register_memory(int fd, void *start, size_t size)
{
	static int domain = -1;
	if (domain < 0) {
		struct ib_uverbs_get_context_resp context;
		struct {
			struct ib_uverbs_cmd_hdr header;
			struct ib_uverbs_get_context body;
		} open = {.body = {.response = (uintptr_t)&context}};
		command(fd, IB_USER_VERBS_CMD_GET_CONTEXT, &open, sizeof(open), sizeof(context));
		struct ib_uverbs_alloc_pd_resp made;
		struct {
			struct ib_uverbs_cmd_hdr header;
			struct ib_uverbs_alloc_pd body;
		} make = {.body = {.response = (uintptr_t)&made}};
		command(fd, IB_USER_VERBS_CMD_ALLOC_PD, &make, sizeof(make), sizeof(made));
		domain = made.pd_handle;
	}
	struct ib_uverbs_reg_mr_resp region;
	struct {
		struct ib_uverbs_cmd_hdr header;
		struct ib_uverbs_reg_mr body;
	} request = {.body = {.response = (uintptr_t)&region,
			      .start = (uintptr_t)start,
			      .length = size,
			      .hca_va = (uintptr_t)start,
			      .pd_handle = domain,
			      .access_flags = 1}}; // IB_ACCESS_LOCAL_WRITE
	command(fd, IB_USER_VERBS_CMD_REG_MR, &request, sizeof(request), sizeof(region));
}

static void share_three(void *holders)
{
	for (int i = 0; i < 3; i++)
		shares(((int *)holders)[i]);
}

// Small pages, one of them in two regions, and part of a huge page; a child has the device open, too.
static void rdma(void)
{
	add_rxe("rxe0", "lo");
	int fd = open_device("/dev/infiniband/uverbs0"), numbers[3];
	char *region = base_pages(2), *huge = thp();
	check(madvise(region, 2 * PAGE, MADV_DONTFORK) == 0, "madvise(MADV_DONTFORK)");
	check(madvise(huge, THP, MADV_DONTFORK) == 0, "madvise(MADV_DONTFORK)");
	register_memory(fd, region, 2 * PAGE);
	register_memory(fd, region + PAGE + 100, 200);
	register_memory(fd, huge + PAGE, 300 * PAGE);
	numbers[0] = holds("rdma", region, fd, 0, 1);
	numbers[1] = holds("rdma", region + PAGE, fd, 0, 2);
	numbers[2] = holds("rdma", huge, fd, 0, 300);
	in_child(share_three, numbers);
	for (int i = 0; i < 2; i++)
		mark("anon", region, i, 1, "RDMA");
	mark_folio("anon-thp", huge, pfn_of(huge), 512, 1, "RDMA");
}

// So much that it takes more than one piece of a list of pieces.
static void rdma_scattered(void)
{
	int fd = open_device("/dev/infiniband/uverbs0");
	char *region = aligned_region(600 * PAGE, THP), *other = aligned_region(600 * PAGE, THP);
	// In turn, so that hardly any two of them are neighbours.
	for (int i = 0; i < 600; i++) {
		fill(region + i * PAGE, PAGE);
		fill(other + i * PAGE, PAGE);
	}
	register_memory(fd, region, 600 * PAGE);
	for (int i = 0; i < 600; i += 199)
		holds("rdma", region + i * PAGE, fd, 0, 1);
	mark("anon", region, 0, 1, "RDMA");
}

const struct scenario scenarios_rdma[] = {
	{"rdma", rdma},
	{"rdma_scattered", rdma_scattered},
	{0},
};
