// SPDX-License-Identifier: LGPL-2.1-or-later
// Migration for several reasons, of pages whose disk does not answer. Nobody gives up, or lets go of them.
#include "../holders/holders.h"

#include <linux/mempolicy.h>

// A page that is being written for ever.
static char *unwritten(int number, const char *directory)
{
	volatile int *silent;
	char *region = map_file(silent_mount(number, directory, &silent), 1);
	*silent = 1;
	region[0] = 'd';
	return region;
}

static void *write_now(void *region)
{
	msync(region, PAGE, MS_SYNC);
	fail("msync ended");
	return NULL;
}

static void write_for_ever(void *region)
{
	start_thread(write_now, region);
}

static void expect_isolated(uint64_t pfn, int pid, const char *kind)
{
	expect_off_lru(pfn, KPF_WRITEBACK);
	wait_until_stuck(pid);
	another_holds(pid, kind, pfn, -1, 1, 0);
	mark_pfn("file", pfn, 0, 1, kind);
}

static void *move_now(void *page)
{
	int node = 0, status = 0;
	syscall(SYS_move_pages, 0, 1UL, &page, &node, &status, MPOL_MF_MOVE_ALL);
	fail("move_pages ended");
	return NULL;
}

static void move_for_ever(void *page)
{
	touch(page, PAGE);
	start_thread(move_now, page);
}

static void moved(void)
{
	char *region = unwritten(0, "/disk-moved");
	uint64_t pfn = pfn_of(region);
	in_stuck_child(write_for_ever, region);
	in_child(move_for_ever, region);
	expect_isolated(pfn, last_child(), "move_pages");
}

static void *write_setting(void *setting)
{
	const char *const *words = setting;
	write_file(words[0], words[1]);
	fail(words[0]);
	return NULL;
}

static void set_for_ever(void *setting)
{
	start_thread(write_setting, setting);
}

static void offlined(void)
{
	static char path[64], text[32];
	static const char *setting[] = {path, "offline"};
	char *region = unwritten(1, "/disk-offlined");
	uint64_t pfn = pfn_of(region);
	check(read_file("/sys/devices/system/memory/block_size_bytes", text, sizeof(text)) == 0, "block_size_bytes");
	snprintf(path, sizeof(path), "/sys/devices/system/memory/memory%lu/state", pfn * PAGE / strtoul(text, NULL, 16));
	in_stuck_child(write_for_ever, region);
	in_child(set_for_ever, setting);
	expect_isolated(pfn, last_child(), "offlining");
}

const struct scenario scenarios_isolated[] = {
	{"moved", moved},
	{"offlined", offlined},
	{0},
};
