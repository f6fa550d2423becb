// SPDX-License-Identifier: LGPL-2.1-or-later
// The table of marks. It is shared memory made before the first fork: a scenario writes to it by itself.
#include "lab.h"

struct table *table;

void make_table(void)
{
	table = mmap(NULL, sizeof(*table), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (table == MAP_FAILED) {
		printf("FAIL scenario=init why=no memory for the table\n");
		exit(1);
	}
	snprintf(table->scenario, sizeof(table->scenario), "init");
}

void add_group(const char *scenario, int pgid)
{
	if (table->groups >= (int)ARRAY_SIZE(table->group))
		fail("table of groups is full");
	struct group *group = &table->group[table->groups++];
	snprintf(group->scenario, sizeof(group->scenario), "%s", scenario);
	group->pgid = pgid;
}

static void add(const char *kind, uintptr_t vaddr, uint64_t pfn, int index, int held, const char *note)
{
	int slot = __sync_fetch_and_add(&table->marks, 1);
	if (slot >= (int)ARRAY_SIZE(table->mark))
		fail("table of marks is full");
	struct mark *m = &table->mark[slot];
	snprintf(m->scenario, sizeof(m->scenario), "%s", table->scenario);
	snprintf(m->kind, sizeof(m->kind), "%s", kind);
	snprintf(m->note, sizeof(m->note), "%s", note);
	m->pid = getpid();
	m->index = index;
	m->held = held;
	m->vaddr = vaddr;
	m->pfn = pfn;
}

void mark(const char *kind, void *region, int index, int held, const char *note)
{
	char *page = (char *)region + index * PAGE;
	uint64_t pfn = pfn_of(page);
	if (!pfn)
		fail("a page to be marked is not mapped");
	add(kind, (uintptr_t)page, pfn, index, held, note);
}

void mark_pfn(const char *kind, uint64_t pfn, int index, int held, const char *note)
{
	add(kind, 0, pfn, index, held, note);
}

void mark_folio(const char *kind, void *region, uint64_t head, int npages, int held, const char *note)
{
	const int sample[] = {0, 1, 3, 7, npages / 2, npages - 1};
	for (size_t i = 0; i < ARRAY_SIZE(sample); i++) {
		int index = sample[i];
		uint64_t pfn = region ? pfn_of((char *)region + index * PAGE) : 0;
		if (!pfn)
			mark_pfn(kind, head + index, index, held, note);
		else if (pfn == head + index)
			mark(kind, region, index, held, note);
		else
			// Copied on write: a page of its own, which nobody else holds.
			mark("anon", region, index, 0, "copy");
	}
}

static void end(enum state state, const char *why)
{
	snprintf(table->why, sizeof(table->why), "%s", why);
	table->state = state;
	if (getpid() == 1) {
		// If pid 1 exited, the kernel would panic, and the reason be lost in the noise.
		printf("FAIL scenario=%s why=%s\nREADY\n", table->scenario, why);
		for (;;)
			pause();
	}
	_exit(1);
}

void lacks(const char *why)
{
	end(LACKING, why);
	__builtin_unreachable();
}

void fail(const char *why)
{
	end(FAILED, why);
	__builtin_unreachable();
}

void check(int ok, const char *what)
{
	if (!ok)
		fail(what);
}
