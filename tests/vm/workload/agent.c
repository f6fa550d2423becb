// SPDX-License-Identifier: LGPL-2.1-or-later
// After READY: pid 1 serves commands on the second serial port, if there is one, and otherwise sleeps.
//
// What may never return is done by a process of its own. An answer is lines, the last of them a single dot.
#include "lab.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <signal.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>

// What no kernel writes into a status: 5.10 leaves that of a page it refused as it was.
#define UNTOUCHED (-1000)
// How long a killed process may take to notice, in seconds. One that sleeps for ever does not.
#define GRACE 2
#define REST 1.0

static int port = -1;
// What the process that did a command found out; and whether processes are to stand still.
static volatile struct outcome {
	long result;
	int error, status;
	uint64_t before, after;
	int stopped;
} *outcome;
static pid_t writer;

void open_agent(void)
{
	struct termios raw;
	port = open("/dev/ttyS1", O_RDWR | O_NOCTTY | O_CLOEXEC);
	// Without the hardware the device node opens, but that is all.
	if (port < 0 || tcgetattr(port, &raw)) {
		port = -1;
		return;
	}
	cfmakeraw(&raw);
	raw.c_lflag |= ICANON;
	tcsetattr(port, TCSANOW, &raw);
	outcome = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	check(outcome != MAP_FAILED, "no memory for the agent");
}

static double seconds_now(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec + now.tv_nsec / 1e9;
}

// For how long the CPUs have had nothing to do, on average. That the machine has no time for the guest is not that.
static double seconds_idle(void)
{
	char text[256];
	unsigned long user, nice, system, idle = 0, waiting = 0;
	if (read_file("/proc/stat", text, sizeof(text)) ||
	    sscanf(text, "cpu %lu %lu %lu %lu %lu", &user, &nice, &system, &idle, &waiting) != 5)
		return 0;
	return (double)(idle + waiting) / sysconf(_SC_CLK_TCK) / sysconf(_SC_NPROCESSORS_ONLN);
}

static int sleeps_for_good(pid_t pid)
{
	char path[32], text[128];
	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	const char *state = read_file(path, text, sizeof(text)) ? NULL : strrchr(text, ')');
	return state && state[2] == 'D';
}

// Says whether the process ended within so many seconds, or before it sleeps, with nothing else going on, for REST.
static int ended(pid_t pid, int seconds)
{
	double start = seconds_now(), since = start, idle = seconds_idle();
	for (unsigned int pause = 100;; pause += pause < 20000 ? pause : 0) {
		if (waitpid(pid, NULL, WNOHANG) == pid)
			return 1;
		double now = seconds_now();
		if (now - start > seconds)
			return 0;
		if (!sleeps_for_good(pid)) {
			since = now;
			idle = seconds_idle();
		} else if (now - since > REST) {
			if (seconds_idle() - idle > 0.8 * REST)
				return 0;
			since = now;
			idle = seconds_idle();
		}
		usleep(pause);
	}
}

static const char *killed(pid_t pid, int seconds)
{
	kill(pid, SIGKILL);
	return ended(pid, seconds) ? "endless" : "blocked";
}

static void move_one(const struct mark *m, int flags)
{
	void *page = (void *)m->vaddr;
	int node = -1, status = UNTOUCHED;
	outcome->before = pfn_of_pid(m->pid, m->vaddr);
	syscall(SYS_move_pages, m->pid, 1UL, &page, NULL, &node, 0);
	node = node == MOVABLE_NODE ? 0 : MOVABLE_NODE;
	errno = 0;
	outcome->result = syscall(SYS_move_pages, m->pid, 1UL, &page, &node, &status, flags);
	outcome->error = errno;
	outcome->status = status;
	outcome->after = pfn_of_pid(m->pid, m->vaddr);
}

// move FLAGS SECONDS MARK...: one page per call, as the second page of a folio would find it isolated.
static void move(char *rest)
{
	int flags = strtol(rest, &rest, 0), seconds = strtol(rest, &rest, 0);
	for (char *word; (word = strsep(&rest, " "));) {
		if (!*word)
			continue;
		int index = atoi(word);
		const struct mark *m = &table->mark[index];
		pid_t pid = fork();
		if (pid == 0) {
			move_one(m, flags);
			_exit(0);
		}
		if (ended(pid, seconds))
			dprintf(port, "A %d %ld %d %d %#lx %#lx\n", index, outcome->result, outcome->error, outcome->status,
				outcome->before, outcome->after);
		else
			dprintf(port, "A %d %s\n", index, killed(pid, GRACE));
	}
}

// wait SECONDS: whether what was written has come to an end by now.
static void wait_for_writer(int seconds)
{
	if (ended(writer, seconds))
		dprintf(port, "W %d\n", outcome->error);
	else
		dprintf(port, "W running\n");
}

// write SECONDS PATH TEXT: into a file of the kernel's, which makes it do something that may take for ever.
// drained SECONDS PATH TEXT: the same, when no page is in a batch of any CPU; least of all ours, which fork() has copied.
static void write_for(char *rest, int drained)
{
	int seconds = strtol(rest, &rest, 0);
	strsep(&rest, " ");
	const char *path = strsep(&rest, " ");
	writer = fork();
	if (writer == 0) {
		int fd = open(path, O_WRONLY);
		outcome->error = 0;
		if (drained) {
			usleep(20000); // by then the parent has written to all that it writes to while it waits
			drain();
		}
		if (fd < 0 || write(fd, rest, strlen(rest)) < 0)
			outcome->error = errno;
		_exit(0);
	}
	wait_for_writer(seconds);
}

// pages: where each marked page is now, and what is to be seen of where it was.
static void pages(void)
{
	for (int i = 0; i < table->marks; i++) {
		const struct mark *m = &table->mark[i];
		uint64_t now = m->vaddr ? pfn_of_pid(m->pid, m->vaddr) : 0;
		dprintf(port, "P %d %#lx %#lx %#lx\n", i, now, m->pfn ? kpageflags(m->pfn) : 0,
			m->pfn ? kpagecount(m->pfn) : 0);
	}
}

// Newer kernels show no flags at all for offline memory, as for a page of their own.
static int is_offline(uint64_t pfn)
{
	char path[64], state[32];
	snprintf(path, sizeof(path), "/sys/devices/system/memory/memory%lu/state", pfn / BLOCK_PAGES);
	return read_file(path, state, sizeof(state)) || !strncmp(state, "offline", 7);
}

// stop, go: all processes but this one. Only programs whose processes wait when they get the signal know them: see
// load/actors.c.
static void stop(int on)
{
	outcome->stopped = on;
	if (on)
		check(kill(-1, SIGUSR1) == 0, "no process to stop");
	else
		syscall(SYS_futex, &outcome->stopped, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

void wait_while_stopped(void)
{
	while (outcome->stopped)
		syscall(SYS_futex, &outcome->stopped, FUTEX_WAIT, 1, NULL, NULL, 0);
}

// used START END: the page frames of a range that are neither free nor gone, in runs that look alike. Offline pages of
// hot-pluggable memory are gone, as virtio-mem has taken them back; others are a balloon's.
static void used(char *rest)
{
	static uint64_t flags[4096];
	uint64_t start = strtoul(rest, &rest, 0), end = strtoul(rest, &rest, 0), first = 0, length = 0, alike = 0;
	int fd = open("/proc/kpageflags", O_RDONLY), gone = is_offline(start);
	for (uint64_t pfn = start; pfn <= end; pfn++) {
		uint64_t at = (pfn - start) % ARRAY_SIZE(flags);
		if (at == 0 && pfn < end && pread(fd, flags, sizeof(flags), pfn * sizeof(*flags)) <= 0)
			break;
		if (pfn % BLOCK_PAGES == 0)
			gone = is_offline(pfn);
		if (length && (pfn == end || gone || flags[at] != alike)) {
			dprintf(port, "U %#lx %lu %#lx\n", first, length, alike);
			length = 0;
		}
		if (pfn == end || gone || flags[at] & (KPF_BUDDY | KPF_NOPAGE))
			continue;
		if (flags[at] & KPF_OFFLINE && pfn >= HOTPLUG_PFN)
			continue;
		if (!length)
			first = pfn;
		alike = flags[at];
		length++;
	}
	close(fd);
}

// alone SCENARIO...: ends the processes of all other scenarios, and takes their files away.
static void alone(char *rest)
{
	static const char *const places[] = {"/tmpfs", "/tmpfs-huge", "/ext4", "/ramfs"};
	char *names[ARRAY_SIZE(table->group)];
	int count = 0;
	while ((names[count] = strsep(&rest, " ")))
		count += *names[count] && count < (int)ARRAY_SIZE(names) - 1;
	for (int i = 0; i < table->groups; i++) {
		const struct group *group = &table->group[i];
		int spared = 0;
		for (int j = 0; j < count; j++)
			spared |= !strcmp(names[j], group->scenario);
		if (spared)
			continue;
		kill(-group->pgid, SIGKILL);
		for (size_t j = 0; j < ARRAY_SIZE(places); j++) {
			char path[64];
			snprintf(path, sizeof(path), "%s/%s", places[j], group->scenario);
			unlink(path);
		}
	}
	// Orphans come to pid 1. They are gone when there are no more of them; those that sleep for ever stay.
	for (int tries = 0; tries < 100; tries++, usleep(2000))
		while (waitpid(-1, NULL, WNOHANG) > 0)
			tries = 0;
	drain();
}

// end: all processes but this one. A page of a process that is still in use then is nobody's any more.
static void end_all(void)
{
	for (int tries = 0; kill(-1, SIGKILL) == 0 && tries < 300; tries++, usleep(10000))
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
	drain();
}

// fragment MIB: takes memory of the movable node page by page, and gives half of each MiB back. Compaction moves pages
// to pageblocks that are partly free only, and here all others are wholly so.
static void fragment(char *rest)
{
	size_t size = strtoul(rest, &rest, 0) << 20;
	pid_t pid = fork();
	if (pid == 0) {
		bind_to_movable_node();
		char *region = aligned_region(size, PAGE);
		madvise(region, size, MADV_NOHUGEPAGE);
		for (size_t offset = 0; offset < size; offset += PAGE)
			*(volatile char *)(region + offset) = 1;
		for (size_t offset = 0; offset < size; offset += 1 << 20)
			madvise(region + offset, 1 << 19, MADV_DONTNEED);
		outcome->status = 1;
		for (;;)
			pause();
	}
	outcome->status = 0;
	while (!outcome->status && waitpid(pid, NULL, WNOHANG) == 0)
		usleep(1000);
}

static void serve(char *line)
{
	char *rest = line;
	const char *command = strsep(&rest, " ");
	if (!rest)
		rest = line + strlen(line);
	if (!strcmp(command, "move"))
		move(rest);
	else if (!strcmp(command, "write"))
		write_for(rest, 0);
	else if (!strcmp(command, "drained"))
		write_for(rest, 1);
	else if (!strcmp(command, "wait"))
		wait_for_writer(atoi(rest));
	else if (!strcmp(command, "kill"))
		dprintf(port, "K %s\n", killed(writer, *rest ? atoi(rest) : GRACE));
	else if (!strcmp(command, "pages"))
		pages();
	else if (!strcmp(command, "used"))
		used(rest);
	else if (!strcmp(command, "alone"))
		alone(rest);
	else if (!strcmp(command, "end"))
		end_all();
	else if (!strcmp(command, "fragment"))
		fragment(rest);
	else if (!strcmp(command, "stop"))
		stop(1);
	else if (!strcmp(command, "go"))
		stop(0);
	else
		dprintf(port, "ERROR no such command\n");
	dprintf(port, ".\n");
}

void agent(void)
{
	// Not from the heap: until a command comes, nothing may change any more.
	static char line[2 * PAGE] = "x";
	ssize_t size;
	// A line of a terminal has no more than 4095 characters.
	while (port >= 0 && (size = read(port, line, sizeof(line) - 1)) > 0) {
		line[size] = 0;
		line[strcspn(line, "\n")] = 0;
		serve(line);
	}
	for (;;)
		pause();
}
