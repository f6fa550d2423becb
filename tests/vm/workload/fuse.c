// SPDX-License-Identifier: LGPL-2.1-or-later
// The server: no library, and only what opening, reading and writing one file takes.
#include "fuse.h"
#include "lab.h"

#include <errno.h>
#include <linux/fuse.h>
#include <sys/mount.h>

#define MAX_WRITE (16 * PAGE)
#define FILE_NODE 2

static char request[MAX_WRITE + 4 * PAGE];
static char answer[MAX_WRITE + PAGE];

static struct fuse_attr attributes(uint64_t node)
{
	struct fuse_attr attr = {.ino = node, .nlink = 1, .mode = S_IFDIR | 0755, .blksize = PAGE};
	if (node == FILE_NODE) {
		attr.mode = S_IFREG | 0644;
		attr.size = FUSE_PAGES * PAGE;
	}
	return attr;
}

// Puts the answer's body into place, and returns its length or an error.
static int serve(const struct fuse_in_header *in, const void *body, void *out)
{
	// Nothing is asked for twice.
	const uint64_t forever = 1 << 30;
	switch (in->opcode) {
	case FUSE_INIT: {
		const struct fuse_init_in *init = body;
		struct fuse_init_out it = {.major = FUSE_KERNEL_VERSION, .minor = 31, .max_write = MAX_WRITE};
		it.max_readahead = init->max_readahead;
		it.flags = init->flags & (FUSE_ASYNC_READ | FUSE_BIG_WRITES | FUSE_WRITEBACK_CACHE);
		memcpy(out, &it, sizeof(it));
		return sizeof(it);
	}
	case FUSE_LOOKUP: {
		if (strcmp(body, "file"))
			return -ENOENT;
		struct fuse_entry_out it = {.nodeid = FILE_NODE, .entry_valid = forever, .attr_valid = forever};
		it.attr = attributes(FILE_NODE);
		memcpy(out, &it, sizeof(it));
		return sizeof(it);
	}
	case FUSE_GETATTR:
	case FUSE_SETATTR: {
		struct fuse_attr_out it = {.attr_valid = forever, .attr = attributes(in->nodeid)};
		memcpy(out, &it, sizeof(it));
		return sizeof(it);
	}
	case FUSE_OPEN: {
		struct fuse_open_out it = {.open_flags = FOPEN_KEEP_CACHE};
		memcpy(out, &it, sizeof(it));
		return sizeof(it);
	}
	case FUSE_READ: {
		const struct fuse_read_in *it = body;
		if (it->offset >= FUSE_PAGES * PAGE)
			return 0;
		size_t left = FUSE_PAGES * PAGE - it->offset;
		size_t size = it->size < left ? it->size : left;
		memset(out, 'f', size);
		return size;
	}
	case FUSE_WRITE: {
		struct fuse_write_out it = {.size = ((const struct fuse_write_in *)body)->size};
		memcpy(out, &it, sizeof(it));
		return sizeof(it);
	}
	default:
		return -ENOSYS;
	}
}

static void serve_forever(struct fuse *fuse, int device)
{
	struct fuse_in_header *in = (void *)request;
	struct fuse_out_header *out = (void *)answer;
	while (read(device, request, sizeof(request)) > 0) {
		if (in->opcode == FUSE_FORGET || in->opcode == FUSE_BATCH_FORGET)
			continue;
		if ((in->opcode == FUSE_READ && fuse->silent_reads) || (in->opcode == FUSE_WRITE && fuse->silent_writes)) {
			fuse->unanswered++;
			continue;
		}
		int done = serve(in, in + 1, out + 1);
		*out = (struct fuse_out_header){.unique = in->unique, .len = sizeof(*out)};
		if (done < 0)
			out->error = done;
		else
			out->len += done;
		if (write(device, answer, out->len) < 0)
			break;
	}
	_exit(1);
}

struct fuse *fuse_mount(const char *path)
{
	char options[64];
	struct fuse *fuse = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int device = open("/dev/fuse", O_RDWR);
	check(fuse != MAP_FAILED && device >= 0, "/dev/fuse");
	mkdir(path, 0755);
	snprintf(options, sizeof(options), "fd=%d,rootmode=40000,user_id=0,group_id=0", device);
	check(mount("fuse", path, "fuse", 0, options) == 0, path);
	fuse->device = device;
	pid_t server = fork();
	if (server == 0)
		serve_forever(fuse, device);
	fuse->server = server;
	// While the server runs, only it may keep the device: if it dies, whoever waits must be told.
	close(device);
	return fuse;
}
