// SPDX-License-Identifier: LGPL-2.1-or-later
// What the scenarios of this program share.
#ifndef PINS_H
#define PINS_H

#include "../expect.h"

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

#endif
