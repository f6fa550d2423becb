// SPDX-License-Identifier: LGPL-2.1-or-later
// The table of who holds what, in memory that all processes share.
#include "holders.h"

struct holdings *holdings;

void make_holdings(void)
{
	holdings = mmap(NULL, sizeof(*holdings), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	check(holdings != MAP_FAILED, "no memory for the table of holders");
}

static struct holding *add(void)
{
	int slot = __sync_fetch_and_add(&holdings->count, 1);
	check(slot < (int)ARRAY_SIZE(holdings->holding), "table of holders is full");
	return &holdings->holding[slot];
}

static int new_holder(const char *kind, uint64_t pfn, int pid, int fd, int gets, int pins)
{
	struct holding *holding = add();
	check(pfn != 0, "a page that is held is not there");
	*holding = (struct holding){.pid = pid, .fd = fd, .pfn = pfn, .gets = gets, .pins = pins};
	holding->holder = __sync_fetch_and_add(&holdings->holders, 1);
	snprintf(holding->scenario, sizeof(holding->scenario), "%s", table->scenario);
	snprintf(holding->kind, sizeof(holding->kind), "%s", kind);
	return holding->holder;
}

int holds_pfn(const char *kind, uint64_t pfn, int fd, int gets, int pins)
{
	return new_holder(kind, pfn, getpid(), fd, gets, pins);
}

int holds(const char *kind, void *page, int fd, int gets, int pins)
{
	touch(page, PAGE); // what was moved is perhaps not mapped any more
	return holds_pfn(kind, pfn_of(page), fd, gets, pins);
}

int another_holds(int pid, const char *kind, uint64_t pfn, int fd, int gets, int pins)
{
	return new_holder(kind, pfn, pid, fd, gets, pins);
}

int held_by_nobody(const char *kind, uint64_t pfn, int gets)
{
	return new_holder(kind, pfn, 0, -1, gets, 0);
}

void shares(int holder)
{
	for (int i = 0; i < holdings->count; i++)
		if (holdings->holding[i].holder == holder) {
			struct holding *holding = add();
			*holding = holdings->holding[i];
			holding->pid = getpid();
			return;
		}
	fail("no such holder");
}

void print_holdings(void)
{
	for (int i = 0; i < holdings->count; i++) {
		struct holding *h = &holdings->holding[i];
		printf("HOLDER number=%d scenario=%s kind=%s pid=%d fd=%d pfn=%#lx gets=%d pins=%d\n", h->holder, h->scenario,
		       h->kind, h->pid, h->fd, h->pfn, h->gets, h->pins);
	}
	printf("HOLDERS %d\n", holdings->count);
}
