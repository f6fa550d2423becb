// SPDX-License-Identifier: LGPL-2.1-or-later
// A file system that this program itself serves, with one file, and that can fall silent.
#ifndef FUSE_H
#define FUSE_H

#define FUSE_PAGES 8

struct fuse {
	// Requests of that kind are taken, and never answered from then on.
	volatile int silent_reads, silent_writes;
	volatile int unanswered;
	// The process that serves it, and its descriptor.
	int server, device;
};

// Mounts it there. The only file is called "file", and has FUSE_PAGES pages.
struct fuse *fuse_mount(const char *path);

#endif
