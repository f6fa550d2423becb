// SPDX-License-Identifier: LGPL-2.1-or-later
// The workload of the lab: puts pages of every kind into every state, then holds perfectly still to be dumped.
#ifndef LAB_H
#define LAB_H

#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

#define PAGE 4096UL
#define THP (2UL << 20)
#define MTHP (64UL << 10)
#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

// The hot-plugged node. It is onlined as ZONE_MOVABLE, so nothing but what we put there lives on it.
#define MOVABLE_NODE 1
#define BOOT_NODE 0
// Hot-plugged memory lies above 4 GiB, all boot memory below.
#define HOTPLUG_PFN (1UL << 20)
// Of a memory block, on all machines of the lab.
#define BLOCK_PAGES 0x8000UL

// Bits of /proc/kpageflags, which is ABI.
#define KPF_LOCKED (1ULL << 0)
#define KPF_REFERENCED (1ULL << 2)
#define KPF_UPTODATE (1ULL << 3)
#define KPF_DIRTY (1ULL << 4)
#define KPF_LRU (1ULL << 5)
#define KPF_ACTIVE (1ULL << 6)
#define KPF_WRITEBACK (1ULL << 8)
#define KPF_BUDDY (1ULL << 10)
#define KPF_COMPOUND_HEAD (1ULL << 15)
#define KPF_COMPOUND_TAIL (1ULL << 16)
#define KPF_SWAPCACHE (1ULL << 13)
#define KPF_SWAPBACKED (1ULL << 14)
#define KPF_HUGE (1ULL << 17)
#define KPF_NOPAGE (1ULL << 20)
#define KPF_THP (1ULL << 22)
#define KPF_OFFLINE (1ULL << 23)

// --- table.c: what pid 1 will tell the world, shared by all processes

struct mark {
	char scenario[32];
	char kind[16];
	char note[64];
	int pid;
	int index;    // of the page in its region
	int held;     // somebody outside of mm has a reference on the folio of this page
	uintptr_t vaddr; // 0: not mapped
	uint64_t pfn;    // 0: the harness finds the page by its content, see note
};

enum state { RUNNING, READY, LACKING, FAILED };

// The processes of one scenario.
struct group {
	char scenario[32];
	int pgid;
};

struct table {
	volatile int groups;
	volatile int marks;
	volatile int children; // of the current scenario, that are in place
	volatile int state;    // of the current scenario
	char scenario[32];
	char why[128];
	struct group group[256];
	struct mark mark[4096];
};

extern struct table *table;

void make_table(void);
void add_group(const char *scenario, int pgid);
// One mark for a mapped page.
void mark(const char *kind, void *region, int index, int held, const char *note);
// One mark for a page that no page table maps.
void mark_pfn(const char *kind, uint64_t pfn, int index, int held, const char *note);
// Marks for a sample of a large folio's pages, mapped or not: the first, the last, and those that scenarios single out.
void mark_folio(const char *kind, void *region, uint64_t head, int npages, int held, const char *note);
// The kernel cannot do this one: ends the scenario, and is reported.
void lacks(const char *why) __attribute__((noreturn));
// The scenario did not come out as meant: ends it, and makes the harness fail.
void fail(const char *why) __attribute__((noreturn));
void check(int ok, const char *what);

// --- pages.c: asking the kernel about pages

uint64_t pfn_of_pid(int pid, uintptr_t vaddr);
uint64_t pfn_of(void *page);
uint64_t kpageflags(uint64_t pfn);
uint64_t kpagecount(uint64_t pfn);
// Empties the per-CPU batches of pages on their way to the LRU, on all CPUs.
void drain(void);

// --- memory.c: making regions

// From now on, for this process.
void bind_to_node(int node);
void bind_to_movable_node(void);
void *aligned_region(size_t size, size_t align);
void *base_pages(int count);
void *thp(void);
// Gives every page a content of its own that is neither zero nor the same as another page's.
void fill(void *region, size_t size);
void touch(void *region, size_t size);
// Takes one reference of a page that mm knows nothing of, through a pipe that this process keeps open.
void hold(void *page);
// Forks, runs the function in the child, and returns once it sleeps in the state that the function left.
void in_child(void (*run)(void *), void *argument);

// --- setup.c: pid 1 before any scenario

void mount_all(void);
void load_modules(void);
void hold_gates_still(void);
void wait_for_movable_node(void);
void attach_disks(void);
void attach_loop(int number, const char *backing);
int write_file(const char *path, const char *text);
int read_file(const char *path, char *buffer, size_t size);

// --- report.c and agent.c: pid 1 after all scenarios

void prepare_report(void);
void report(void);
void open_agent(void);
// For who is told to stop by a signal: comes back when the harness says so, however late it was to notice.
void wait_while_stopped(void);
void agent(void) __attribute__((noreturn));

// --- a program's own folder

struct scenario {
	const char *name;
	void (*run)(void);
};

// run.c. The second argument is called in the new process first.
void run(const struct scenario *scenario, void (*prepare)(void));

// What the main.c that the programs share runs, in this order; each program that has no main.c of its own defines it.
extern const struct scenario *const tables[];

// spread.c. A program that defines this has its scenarios apart: memory on which small pages of others are is taken
// before each, and given back when all are there.
extern const int spread_out __attribute__((weak));
void begin_anew(void);
void give_back(void);

#endif
