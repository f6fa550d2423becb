// SPDX-License-Identifier: LGPL-2.1-or-later
// Processes that do at random what processes do with memory.
#ifndef LOAD_H
#define LOAD_H

#include "../lab.h"

#define ACTORS 12
// At the same place in every process.
#define ARENA ((char *)0x100000000000)
#define ARENA_SIZE (2 * THP)
#define ARENA_PAGES (ARENA_SIZE / PAGE)
#define FILE_PAGES 32
#define DISK_SIZE (8UL << 20)

struct shared {
	volatile int pid[ACTORS];
};

extern struct shared *shared;

// A number below the limit, from a sequence that is this process's own.
unsigned long roll(unsigned long limit);

struct piece {
	char *start;
	size_t size;
};

// Some pages of the arena, which may be mapped in any way.
struct piece piece(size_t most_pages);

// As check(): pid 1 does not look after these processes.
void must(int ok, const char *what);
// For this process and its children: a signal makes them wait.
void learn_to_stop(void);
void act_for_ever(int number, unsigned long seed) __attribute__((noreturn));

// What is done with memory, with what holds it from outside of mm, and with files.
void change_memory(void);
void hold_memory(void);
void use_files(int number);
void open_files(int number);

#endif
