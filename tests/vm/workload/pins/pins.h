// SPDX-License-Identifier: LGPL-2.1-or-later
// What the scenarios of this program share.
#ifndef PINS_H
#define PINS_H

#include "../expect.h"

struct iovec;

// Memory of this process comes from here on from node 0, whose zones hold all kinds of pages.
void use_normal_zone(void);
// For a note: where a page is now. Who pins for long has it moved out of ZONE_MOVABLE first, by newer kernels.
const char *place_of(void *page);
// As expect(), once no batch of any CPU has the page any more.
void expect_settled(uint64_t pfn, uint64_t set, uint64_t clear, const char *what);
// A file of so many pages, written, open, and in the page cache only as far as the file system says.
int file_of(const char *directory, int pages);
// Maps a file and reads it in.
char *map_file(int fd, int pages);
// A region whose missing pages are to come from a descriptor, which is returned.
int userfault(void *region, size_t size);
// A disk, open for direct I/O, whose server takes all requests and answers none.
int silent_disk(int number);
// The same, of a file system that may be mounted for reading: it still answers, until what is returned is set.
volatile int *attach_silent_disk(int number, const char *image);

// held.c: having pages held, by what this process then has open

void into_pipe(int ends[2], void *page);
// The first page of a file, without a copy.
void from_file(int ends[2], int fd);
// A connection that has more on its way than its other end will ever take: what is sent into it from now on stays.
int blocked_connection(void);
// In a message with one byte.
void send_descriptor(int socket, int fd);
void raise_loopback(void);
// Of two blocks of four pages each.
int open_packet_ring(void);
// May be mapped with one page, and a power of two more.
int open_perf_event(void);
// The descriptor of an io_uring that has this as its only fixed buffer.
int register_buffer(void *start, size_t size);
int register_buffers(const struct iovec *buffers, int count);
// A socket that has this as its UMEM.
int register_umem(void *start, size_t size);
// Asynchronously, from a disk that does not answer. Returns where the ring for what has been read is mapped.
void *read_for_ever(void *page, int disk);
// For a child: has a thread that copies from this page of the parent's, and never gets further than having pinned it.
void read_remote_for_ever(void *page);

#endif
