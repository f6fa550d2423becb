// SPDX-License-Identifier: LGPL-2.1-or-later
// Pages that somebody holds, and who: each holder is told of in a line of its own.
#ifndef HOLDERS_H
#define HOLDERS_H

#include "../pins/pins.h"

// One process that has something which holds a page.
struct holding {
	int holder; // number; the same for all processes that have the same holder
	char scenario[32];
	char kind[24];
	int pid; // 0: no process has it open
	int fd;	 // -1: none
	uint64_t pfn;
	int gets, pins; // on this page; -1: as the kernel likes
};

struct holdings {
	volatile int holders;
	volatile int count;
	struct holding holding[1024];
};

extern struct holdings *holdings;

void make_holdings(void);
void print_holdings(void);
// This process holds the page through a descriptor (or -1). Returns the number of the holder.
int holds(const char *kind, void *page, int fd, int gets, int pins);
int holds_pfn(const char *kind, uint64_t pfn, int fd, int gets, int pins);
// The same, of another process.
int another_holds(int pid, const char *kind, uint64_t pfn, int fd, int gets, int pins);
// The same, of something that no process has open: in flight, registered and closed, a CPU's, or lost.
int held_by_nobody(const char *kind, uint64_t pfn, int gets);
// For a child: has the same thing open, by a descriptor of the same number.
void shares(int holder);

// waiting.c: tasks that wait for what never comes

// Has the kernel say nothing of such tasks.
void quiet(void);
// Whether the kernel is older than that, where only that tells what it holds.
int is_before(int major, int minor);
void start_thread(void *(*run)(void *), void *argument);
int last_child(void);
// Whether one is in that state, as in /proc/PID/stat.
int is_any_thread(int pid, char state);
// Until a thread of that process waits, and cannot be woken but by what it waits for.
void wait_until_stuck(int pid);
// Until one does that could be woken. The one that asks is awake while it does.
void wait_until_asleep(int pid);
// As expect(), once somebody has taken the page off the LRU.
void expect_off_lru(uint64_t pfn, uint64_t set);
// Until a disk has so many requests to read that it does not answer.
void wait_for_reads(int number, int reads);
// How many tasks have a function of the kernel's on their stacks.
int tasks_in(const char *function);
// As in_child(), but for what a thread of the child does and never gets done with. Returns the child.
int in_stuck_child(void (*run)(void *), void *argument);
// A file of four pages on a disk that falls silent when it is told to; the first page has been read.
int silent_mount(int number, const char *directory, volatile int **silent);

// rings.c: io_uring without a library

struct ring {
	int fd;
	void *rings, *entries;
};

// The memory for its rings is the process's own, where it is given: one page each.
struct ring open_ring(unsigned int flags, void *rings, void *entries);
void submit_read(const struct ring *ring, int disk, void *page);
// A ring of buffers to be provided, in memory of the process.
void register_buffer_ring(int ring, void *page, int group);
void register_file(int ring, int fd);
// All buffers of the other one. Returns whether the kernel can do that.
int clone_buffers(int ring, int from);

#endif
