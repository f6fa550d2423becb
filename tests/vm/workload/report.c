// SPDX-License-Identifier: LGPL-2.1-or-later
// The guest's own view of all of its pages, taken as the very last thing.
//
// It is megabytes, too much for an emulated serial line. It stays in memory, and only where is printed: the harness
// finds it in the dump.
#include "lab.h"

static struct range {
	uint64_t start, pages;
	int hotplugged;
} ranges[32];
static int nranges;
static uint64_t total;
static uint64_t *flags, *counts;
static size_t size;

static void find_ranges(void)
{
	static char text[16384];
	char *rest = text;
	check(read_file("/proc/iomem", text, sizeof(text)) == 0, "/proc/iomem");
	for (char *line; (line = strsep(&rest, "\n")) && nranges < (int)ARRAY_SIZE(ranges);) {
		unsigned long start, end;
		if (!strstr(line, ": System RAM") || sscanf(line, "%lx-%lx", &start, &end) != 2)
			continue;
		struct range *range = &ranges[nranges++];
		range->start = (start + PAGE - 1) / PAGE;
		range->pages = (end + 1) / PAGE - range->start;
		range->hotplugged = strstr(line, "virtio_mem") != NULL;
		total += range->pages;
	}
}

void prepare_report(void)
{
	find_ranges();
	size = (2 * total * sizeof(*flags) + THP - 1) & ~(THP - 1);
	flags = aligned_region(size, THP);
	counts = flags + total;
	// Few and long physical runs are quick to print. As pid 1 is the first that khugepaged hears of, this is also
	// where it does its one scan before it sleeps for good.
	madvise(flags, size, MADV_HUGEPAGE);
	// Writing the report would otherwise copy it, page by page, away from the processes of the scenarios.
	madvise(flags, size, MADV_DONTFORK);
	memset(flags, 0, size);
}

static void read_all(const char *path, uint64_t *into)
{
	int fd = open(path, O_RDONLY);
	for (int i = 0; i < nranges; i++) {
		size_t bytes = ranges[i].pages * sizeof(*into), done = 0;
		while (done < bytes) {
			off_t offset = ranges[i].start * sizeof(*into) + done;
			ssize_t got = pread(fd, (char *)into + done, bytes - done, offset);
			check(got > 0, path);
			done += got;
		}
		into += ranges[i].pages;
	}
	close(fd);
}

static void refresh_marks(void)
{
	for (int i = 0; i < table->marks; i++) {
		struct mark *m = &table->mark[i];
		uint64_t pfn = m->vaddr ? pfn_of_pid(m->pid, m->vaddr) : m->pfn;
		if (pfn != m->pfn)
			printf("FAIL scenario=%s why=page %d moved from %#lx to %#lx\n", m->scenario, m->index, m->pfn, pfn);
	}
}

// Nobody has a free huge page to mark it, so they are found here.
static void mark_free_hugetlb(void)
{
	uint64_t *at = flags;
	int found = 0;
	snprintf(table->scenario, sizeof(table->scenario), "hugetlb_free");
	for (int i = 0; i < nranges; i++)
		for (uint64_t pfn = ranges[i].start; pfn < ranges[i].start + ranges[i].pages; pfn++, at++) {
			if (~*at & (KPF_HUGE | KPF_COMPOUND_HEAD))
				continue;
			int used = 0;
			for (int j = 0; j < table->marks; j++)
				used |= table->mark[j].pfn == pfn;
			if (!used)
				mark_pfn("hugetlb", pfn, found++, 0, "in the pool");
		}
}

static void print_physical_runs(void)
{
	uint64_t start = 0, pages = 0;
	for (size_t offset = 0; offset <= size; offset += PAGE) {
		uint64_t pfn = offset < size ? pfn_of((char *)flags + offset) : 0;
		if (pages && pfn == start + pages) {
			pages++;
			continue;
		}
		if (pages)
			printf("RUN pfn=%#lx pages=%lu\n", start, pages);
		start = pfn;
		pages = 1;
	}
}

void report(void)
{
	refresh_marks();
	read_all("/proc/kpageflags", flags);
	read_all("/proc/kpagecount", counts);
	mark_free_hugetlb();
	for (int i = 0; i < nranges; i++)
		printf("RANGE pfn=%#lx pages=%lu hotplugged=%d\n", ranges[i].start, ranges[i].pages, ranges[i].hotplugged);
	print_physical_runs();
	for (int i = 0; i < table->marks; i++) {
		struct mark *m = &table->mark[i];
		printf("MARK scenario=%s pid=%d vaddr=%#lx index=%d pfn=%#lx kind=%s held=%d note=%s\n", m->scenario, m->pid,
		       m->vaddr, m->index, m->pfn, m->kind, m->held, m->note);
	}
	// A message of the kernel in the middle of a line would lose a mark unnoticed.
	printf("MARKS %d\n", table->marks);
	printf("READY\n");
}
