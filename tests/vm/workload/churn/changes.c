// SPDX-License-Identifier: LGPL-2.1-or-later
// Processes that fork, fault huge pages and swap; and one that offlines and onlines memory blocks.
#include "churn.h"

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <sys/time.h>
#include <sys/wait.h>

#define FORKERS 2
#define SWAPPERS 2
#define BLOCKS "/sys/devices/system/node/node1"
// What cannot go would be tried for ever.
#define OFFLINE_SECONDS 3
#define PAGEOUT 21

static void fork_for_ever(int number)
{
	signal(SIGCHLD, SIG_DFL);
	for (;; number++) {
		char *region = aligned_region(2 * THP, THP);
		madvise(region, 2 * THP, MADV_HUGEPAGE);
		memset(region, number, 2 * THP);
		pid_t pid = fork();
		if (pid == 0) {
			for (int i = 0; i < 20; i++) {
				region[roll(1024) * PAGE] = i;
				usleep(roll(5000));
			}
			_exit(0);
		}
		for (int i = 0; i < 20; i++) {
			region[roll(1024) * PAGE] = i;
			madvise(region + roll(1000) * PAGE, 4 * PAGE, MADV_DONTNEED);
			usleep(roll(5000));
		}
		waitpid(pid, NULL, 0);
		munmap(region, 2 * THP);
	}
}

// A fault on what is under writeback waits for that, and holds the page meanwhile.
static void touch_each(char *region, size_t size)
{
	static struct hold one;
	for (size_t offset = 0; offset < size; offset += PAGE) {
		one.since = now_ms();
		touch(region + offset, PAGE);
		if (now_ms() - one.since < SLOW_MS)
			continue;
		note_frames(&one, region + offset, 1);
		tell_slow(&one, "fault");
	}
}

static void swap_for_ever(int number)
{
	char *region = aligned_region(4 * THP, THP);
	for (;; number++) {
		char *part = region + roll(4) * THP;
		madvise(part, THP, roll(2) ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
		memset(part, number, roll(512) * PAGE + PAGE);
		madvise(part, THP, PAGEOUT);
		usleep(roll(30000));
		touch_each(part, THP);
	}
}

static void woken(int signal)
{
	(void)signal;
}

static int set_state(const char *block, const char *state)
{
	char path[64];
	struct itimerval limit = {{0, 0}, {OFFLINE_SECONDS, 0}}, none = {0};
	snprintf(path, sizeof(path), "/sys/devices/system/memory/%.24s/state", block);
	int fd = open(path, O_WRONLY);
	must(fd >= 0, path);
	setitimer(ITIMER_REAL, &limit, NULL);
	int done = write(fd, state, strlen(state)) > 0;
	setitimer(ITIMER_REAL, &none, NULL);
	close(fd);
	return done;
}

// From node 0: its own memory is not to be in its own way.
static void offline_for_ever(int number)
{
	struct sigaction action = {.sa_handler = woken};
	unsigned int gone = 0, stayed = 0;
	char blocks[64][24];
	int count = 0;
	DIR *directory = opendir(BLOCKS);
	must(directory != NULL, BLOCKS);
	for (struct dirent *entry; (entry = readdir(directory)) && count < 64;)
		if (!strncmp(entry->d_name, "memory", 6) && strchr("0123456789", entry->d_name[6]))
			snprintf(blocks[count++], sizeof(blocks[0]), "%.20s", entry->d_name);
	closedir(directory);
	must(count > 0, "no memory blocks");
	sigaction(SIGALRM, &action, NULL);
	for (;; number++) {
		const char *block = blocks[roll(count)];
		if (set_state(block, "offline")) {
			gone++;
			usleep(200000 + roll(500000));
			must(set_state(block, "online_movable"), "a block did not come back");
		} else {
			stayed++;
		}
		if (number % 10 == 9)
			dprintf(1, "BLOCKS %u went, %u stayed\n", gone, stayed);
		usleep(roll(1000000));
	}
}

void change_for_ever(void)
{
	for (int i = 0; i < FORKERS; i++)
		begin(fork_for_ever, i);
	for (int i = 0; i < SWAPPERS; i++)
		begin(swap_for_ever, i);
	begin(offline_for_ever, 0);
}
