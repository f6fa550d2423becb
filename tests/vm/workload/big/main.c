// SPDX-License-Identifier: LGPL-2.1-or-later
// Another pid 1, for benchmarks: gigabytes of live pages rather than one of each kind.
#include "../lab.h"

#include <sys/uio.h>

#define MIB (1UL << 20)
#define GIB (1UL << 30)
#define PIPE_SLOTS 256

static void planted(const char *what, unsigned long count)
{
	printf("PLANTED %s=%lu\n", what, count);
}

static char *anonymous(size_t size, int advice)
{
	char *region = aligned_region(size, THP);
	check(madvise(region, size, advice) == 0, "madvise");
	for (size_t offset = 0; offset < size; offset += PAGE)
		*(volatile uint64_t *)(region + offset) = offset;
	return region;
}

// One reference on every stride-th page. A pipe has few slots by default, and a process few files.
static void hold_many(char *region, size_t stride, int count)
{
	int ends[2];
	for (int i = 0; i < count; i++) {
		struct iovec piece = {region + i * stride, PAGE};
		if (i % PIPE_SLOTS == 0)
			check(pipe(ends) == 0 && fcntl(ends[1], F_SETPIPE_SZ, PIPE_SLOTS * PAGE) > 0, "pipe");
		check(vmsplice(ends[1], &piece, 1, 0) == (ssize_t)PAGE, "vmsplice");
	}
}

static void tmpfs_file(const char *path, size_t size)
{
	int fd = open(path, O_RDWR | O_CREAT, 0600);
	check(fd >= 0 && ftruncate(fd, size) == 0, path);
	char *region = aligned_region(size, THP);
	check(mmap(region, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == region, "mmap of a file");
	for (size_t offset = 0; offset < size; offset += PAGE)
		*(volatile uint64_t *)(region + offset) = offset;
}

static char *forked;

static void copy_some(void *argument)
{
	(void)argument;
	// One page in each of some THPs.
	for (int i = 0; i < 64; i++)
		forked[i * THP + 7 * PAGE] = 'c';
}

static void mixed(void)
{
	char *huge = anonymous(3 * GIB, MADV_HUGEPAGE);
	planted("thp", 3 * GIB / THP);
	for (int i = 0; i < 512; i++)
		munmap(huge + i * THP + THP / 2, THP / 2);
	planted("thp_partial", 512);
	hold_many(huge + 512 * THP, THP, 200);
	planted("thp_held", 200);

	char *base = anonymous(2 * GIB, MADV_NOHUGEPAGE);
	planted("base", 2 * GIB / PAGE);
	hold_many(base, 16 * PAGE, 1600);
	planted("base_held", 1600);

	write_file("/sys/kernel/mm/transparent_hugepage/hugepages-2048kB/enabled", "never");
	anonymous(768 * MIB, MADV_HUGEPAGE);
	planted("mthp", 768 * MIB / MTHP);
	write_file("/sys/kernel/mm/transparent_hugepage/hugepages-2048kB/enabled", "inherit");

	tmpfs_file("/tmpfs/file", GIB);
	planted("tmpfs_base", GIB / PAGE);
	tmpfs_file("/tmpfs-huge/file", GIB);
	planted("tmpfs_thp", GIB / THP);

	forked = huge + 1024 * THP;
	for (int i = 0; i < 3; i++)
		in_child(copy_some, NULL);
	planted("cow_children", 3);
}

// All of the memory that the kernel and its page tables do not need.
static void dense(void)
{
	size_t size = sysconf(_SC_AVPHYS_PAGES) * PAGE / 100 * 96 & ~(THP - 1);
	anonymous(size, MADV_NOHUGEPAGE);
	planted("base", size / PAGE);
}

static const struct scenario variants[] = {{"mixed", mixed}, {"dense", dense}, {0}};

int main(void)
{
	const char *variant = getenv("big");
	setvbuf(stdout, NULL, _IOLBF, 0);
	make_table();
	mount_all();
	load_modules();
	open_agent();
	hold_gates_still();
	const struct scenario *chosen = variants;
	while (chosen->name && (!variant || strcmp(variant, chosen->name)))
		chosen++;
	check(chosen->name != NULL, "the kernel's command line names no variant");
	// The first process with huge pages is where khugepaged does its one scan. It would collapse some of what is counted.
	anonymous(THP, MADV_HUGEPAGE);
	run(chosen, NULL);
	printf("READY\n");
	agent();
}
