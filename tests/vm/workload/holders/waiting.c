// SPDX-License-Identifier: LGPL-2.1-or-later
// Tasks that wait for what never comes, and disks that fall silent under a file system.
#include "holders.h"

#include <dirent.h>
#include <glob.h>
#include <pthread.h>
#include <sys/mount.h>
#include <sys/utsname.h>

// The kernel complains of tasks that hang, and would do so in the middle of our lines.
void quiet(void)
{
	write_file("/proc/sys/kernel/printk", "1");
	write_file("/proc/sys/kernel/hung_task_timeout_secs", "0");
}

int is_before(int major, int minor)
{
	struct utsname name;
	int version[2];
	check(uname(&name) == 0 && sscanf(name.release, "%d.%d", &version[0], &version[1]) == 2, "uname");
	return version[0] < major || (version[0] == major && version[1] < minor);
}

void start_thread(void *(*run)(void *), void *argument)
{
	pthread_t thread;
	check(pthread_create(&thread, NULL, run, argument) == 0, "pthread_create");
}

int last_child(void)
{
	static char text[256];
	char path[64];
	int found = 0;
	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", getpid(), getpid());
	check(read_file(path, text, sizeof(text)) == 0, path);
	for (char *rest = text, *word; (word = strsep(&rest, " "));)
		if (*word)
			found = atoi(word);
	return found;
}

int is_any_thread(int pid, char state)
{
	char path[64], text[512], wanted[] = {')', ' ', state, ' ', 0};
	int found = 0;
	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	DIR *tasks = opendir(path);
	for (struct dirent *entry; tasks && !found && (entry = readdir(tasks));) {
		snprintf(path, sizeof(path), "/proc/%d/task/%.16s/stat", pid, entry->d_name);
		found = entry->d_name[0] != '.' && read_file(path, text, sizeof(text)) == 0 && strstr(text, wanted);
	}
	if (tasks)
		closedir(tasks);
	return found;
}

static void wait_for_thread(int pid, char state)
{
	for (int tries = 0; tries < 10000; tries++, usleep(1000))
		if (is_any_thread(pid, state))
			return;
	fail("nobody waits");
}

void wait_until_stuck(int pid)
{
	wait_for_thread(pid, 'D');
}

void wait_until_asleep(int pid)
{
	wait_for_thread(pid, 'S');
}

void expect_off_lru(uint64_t pfn, uint64_t set)
{
	for (int tries = 0; tries < 20000 && kpageflags(pfn) & KPF_LRU; tries++)
		usleep(1000);
	expect(pfn, set, KPF_LRU, "not isolated");
}

void wait_for_reads(int number, int reads)
{
	char path[64], text[64];
	int found;
	snprintf(path, sizeof(path), "/sys/block/nbd%d/inflight", number);
	for (int tries = 0; tries < 10000; tries++, usleep(1000))
		if (read_file(path, text, sizeof(text)) == 0 && sscanf(text, "%d", &found) == 1 && found >= reads)
			return;
	fail("the disk was not asked");
}

int tasks_in(const char *function)
{
	static char text[4096];
	glob_t stacks;
	int found = 0;
	check(glob("/proc/[0-9]*/stack", 0, NULL, &stacks) == 0, "/proc/*/stack");
	for (size_t i = 0; i < stacks.gl_pathc; i++)
		found += read_file(stacks.gl_pathv[i], text, sizeof(text)) == 0 && strstr(text, function);
	globfree(&stacks);
	return found;
}

// As in_child(), but for what a thread of the child does and never gets done with. Returns the child.
int in_stuck_child(void (*run)(void *), void *argument)
{
	in_child(run, argument);
	int pid = last_child();
	wait_until_stuck(pid);
	return pid;
}

static void copy_file(const char *from, const char *to)
{
	static char data[1 << 20];
	ssize_t got;
	int source = open(from, O_RDONLY), target = open(to, O_WRONLY | O_CREAT | O_EXCL, 0600);
	check(source >= 0 && target >= 0, to);
	while ((got = read(source, data, sizeof(data))) > 0)
		check(write(target, data, got) == got, to);
	close(source);
	close(target);
}

// A file of a disk that can fall silent, and not yet in the page cache.
int silent_mount(int number, const char *directory, volatile int **silent)
{
	char device[32], path[64];
	quiet();
	snprintf(path, sizeof(path), "/ramfs%s.img", directory);
	copy_file("/ext4.img", path);
	*silent = attach_silent_disk(number, path);
	snprintf(device, sizeof(device), "/dev/nbd%d", number);
	mkdir(directory, 0755);
	// Nothing of it may be read or written but by us.
	check(mount(device, directory, "ext4", 0, "noinit_itable,no_prefetch_block_bitmaps") == 0 ||
		      mount(device, directory, "ext4", 0, "noinit_itable") == 0,
	      "mount of a disk");
	snprintf(path, sizeof(path), "%s/unmapped", directory);
	int fd = open(path, O_RDWR);
	check(fd >= 0, path);
	// So that what is in the way to its blocks is read.
	check(posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM) == 0 && pread(fd, base_pages(1), PAGE, 0) == (ssize_t)PAGE, "read");
	return fd;
}
