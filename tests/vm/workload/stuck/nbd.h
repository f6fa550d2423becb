// SPDX-License-Identifier: LGPL-2.1-or-later
// A network block device that this program itself serves, and that can fall silent.
#ifndef NBD_H
#define NBD_H

#include <stddef.h>

struct nbd {
	// Requests of that kind are taken, and never answered from then on.
	volatile int silent_reads, silent_writes;
	volatile int unanswered;
};

// Makes /dev/nbd<number> of memory, which only the server changes from then on.
struct nbd *nbd_attach(int number, char *content, size_t size);

#endif
