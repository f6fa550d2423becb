// SPDX-License-Identifier: LGPL-2.1-or-later
#include "expect.h"

void expect(uint64_t pfn, uint64_t set, uint64_t clear, const char *what)
{
	char why[128];
	uint64_t flags = kpageflags(pfn);
	snprintf(why, sizeof(why), "%s: pfn %#lx has flags %#lx", what, pfn, flags);
	check((flags & set) == set && !(flags & clear), why);
}

void expect_mappings(uint64_t pfn, uint64_t count, const char *what)
{
	char why[128];
	uint64_t found = kpagecount(pfn);
	snprintf(why, sizeof(why), "%s: pfn %#lx is mapped %lu times", what, pfn, found);
	check(found == count, why);
}

unsigned long number_in(const char *path, const char *word)
{
	static char text[16384];
	check(read_file(path, text, sizeof(text)) == 0, path);
	char *found = strstr(text, word);
	check(found != NULL, word);
	return strtoul(found + strlen(word), NULL, 10);
}

void resize_pool(const char *path, unsigned long pages)
{
	char text[16];
	snprintf(text, sizeof(text), "%lu", pages);
	check(write_file(path, text) == 0, "nr_hugepages");
	check(number_in(path, "") == pages, "the pool has another size");
}
