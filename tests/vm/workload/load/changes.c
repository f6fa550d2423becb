// SPDX-License-Identifier: LGPL-2.1-or-later
// What a process does with its memory. Any call may fail, as the memory may be in any state: then nothing is done.
#include "load.h"

#include <sys/uio.h>

// Newer than the C library may be.
#define COLD 20
#define PAGEOUT 21
#define COLLAPSE 25

static void map_anew(struct piece p)
{
	void *where = mmap(p.start, p.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	must(where == p.start, "mmap");
}

static void scribble(struct piece p)
{
	// Half of it is the same everywhere, for KSM.
	uint64_t what = roll(2) ? 0x1234 : roll(~0UL);
	for (size_t offset = 0; offset < p.size; offset += PAGE)
		*(volatile uint64_t *)(p.start + offset) = what;
}

static void huge(void)
{
	struct piece p = {ARENA + roll(ARENA_SIZE / THP) * THP, THP};
	map_anew(p);
	madvise(p.start, p.size, MADV_HUGEPAGE);
	scribble((struct piece){p.start, roll(512) * PAGE});
}

static void medium(void)
{
	struct piece p = {ARENA + roll(ARENA_SIZE / MTHP) * MTHP, MTHP};
	map_anew(p);
	madvise(p.start, p.size, MADV_HUGEPAGE);
	scribble(p);
}

static void move(void)
{
	struct piece from = piece(32), to = {piece(1).start, from.size};
	if (to.start + to.size > ARENA + ARENA_SIZE || (to.start < from.start + from.size && from.start < to.start + to.size))
		return;
	// The destination is gone even if it fails.
	if (mremap(from.start, from.size, from.size, MREMAP_MAYMOVE | MREMAP_FIXED, to.start) == MAP_FAILED)
		map_anew(to);
	map_anew(from);
}

static void advise(void)
{
	static const int advice[] = {
		MADV_DONTNEED,    MADV_FREE,     COLD,           PAGEOUT,  PAGEOUT,
		MADV_MERGEABLE,   MADV_HUGEPAGE, MADV_NOHUGEPAGE, COLLAPSE, MADV_UNMERGEABLE,
	};
	struct piece p = piece(128);
	madvise(p.start, p.size, advice[roll(ARRAY_SIZE(advice))]);
}

static void lock(void)
{
	struct piece p = piece(16);
	if (roll(2))
		mlock(p.start, p.size);
	else
		munlock(p.start, p.size);
}

static void migrate(void)
{
	void *pages[16];
	int nodes[16], status[16];
	struct piece p = piece(ARRAY_SIZE(pages));
	for (size_t i = 0; i < p.size / PAGE; i++) {
		pages[i] = p.start + i * PAGE;
		nodes[i] = roll(4) ? MOVABLE_NODE : 0;
	}
	syscall(SYS_move_pages, 0, p.size / PAGE, pages, nodes, status, 2);
}

static void read_other(void)
{
	struct piece mine = piece(16), others = {piece(1).start, mine.size};
	if (others.start + others.size > ARENA + ARENA_SIZE)
		return;
	struct iovec local = {mine.start, mine.size}, remote = {others.start, others.size};
	process_vm_readv(shared->pid[roll(ACTORS)], &local, 1, &remote, 1, 0);
}

void change_memory(void)
{
	switch (roll(14)) {
	case 0:
	case 1:
	case 2:
	case 3:
		scribble(piece(64));
		break;
	case 4:
		touch(piece(1).start, PAGE);
		break;
	case 5:
		huge();
		break;
	case 6:
		medium();
		break;
	case 7:
		map_anew(piece(32));
		break;
	case 8:
		move();
		break;
	case 9:
	case 10:
		advise();
		break;
	case 11:
		lock();
		break;
	case 12:
		migrate();
		break;
	case 13:
		read_other();
		break;
	}
}
