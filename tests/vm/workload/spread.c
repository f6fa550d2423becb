// SPDX-License-Identifier: LGPL-2.1-or-later
// No two scenarios have pages in the same piece of memory, as far as these are small. A page that the kernel cannot have
// keeps all that is around it, and each is to be asked about by itself.
#include "lab.h"

#include <sched.h>
#include <signal.h>
#include <sys/wait.h>

// The largest block of the buddy allocator, which it splits when there is no smaller one.
#define PIECE_PAGES 1024UL
#define MOST (64UL << 20)

static struct spread {
	volatile int done;
	unsigned char used[1 << 16]; // pieces
} *spread;
static pid_t taking[64];
static size_t count;

static void find_used_pieces(void)
{
	static uint64_t flags[PIECE_PAGES];
	static char text[16384];
	char *rest = text;
	int fd = open("/proc/kpageflags", O_RDONLY);
	check(fd >= 0, "/proc/kpageflags");
	check(read_file("/proc/iomem", text, sizeof(text)) == 0, "/proc/iomem");
	for (char *line; (line = strsep(&rest, "\n"));) {
		unsigned long start, end;
		if (!strstr(line, "(virtio_mem)") || sscanf(line, "%lx-%lx", &start, &end) != 2)
			continue;
		for (uint64_t pfn = start / PAGE; pfn < end / PAGE; pfn += PIECE_PAGES) {
			check(pread(fd, flags, sizeof(flags), pfn * sizeof(*flags)) == sizeof(flags), "/proc/kpageflags");
			for (size_t i = 0; i < ARRAY_SIZE(flags); i++)
				if (flags[i] & (KPF_LRU | KPF_SWAPBACKED | KPF_HUGE))
					spread->used[pfn / PIECE_PAGES] = 1;
		}
	}
	close(fd);
}

// Until the next page that either CPU is given is of a piece that has no pages in use.
static void take_what_is_left(void)
{
	bind_to_movable_node();
	find_used_pieces();
	char *region = aligned_region(MOST, PAGE), *next = region;
	check(madvise(region, MOST, MADV_NOHUGEPAGE) == 0, "madvise(MADV_NOHUGEPAGE)");
	for (int cpu = 0; cpu < 2; cpu++) {
		cpu_set_t set;
		CPU_ZERO(&set);
		CPU_SET(cpu, &set);
		check(sched_setaffinity(0, sizeof(set), &set) == 0, "sched_setaffinity");
		do {
			check(next < region + MOST, "all pieces of memory are in use");
			*(volatile char *)next = 1;
			next += PAGE;
		} while (spread->used[pfn_of(next - PAGE) / PIECE_PAGES]);
	}
	spread->done = 1;
	for (;;)
		pause();
}

void begin_anew(void)
{
	if (!spread)
		spread = mmap(NULL, sizeof(*spread), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	check(spread != MAP_FAILED && count < ARRAY_SIZE(taking), "too many scenarios");
	spread->done = 0;
	pid_t pid = taking[count++] = fork();
	if (pid == 0)
		take_what_is_left();
	while (!spread->done && waitpid(pid, NULL, WNOHANG) == 0)
		usleep(1000);
	check(spread->done, "no piece of memory for a scenario");
}

void give_back(void)
{
	while (count--) {
		kill(taking[count], SIGKILL);
		waitpid(taking[count], NULL, 0);
	}
}
