// SPDX-License-Identifier: LGPL-2.1-or-later
// Making sure that a page is in the state that was meant.
#ifndef EXPECT_H
#define EXPECT_H

#include "lab.h"

// More bits of /proc/kpageflags.
#define KPF_SLAB (1ULL << 7)
#define KPF_BUDDY (1ULL << 10)
#define KPF_ANON (1ULL << 12)
#define KPF_SWAPBACKED (1ULL << 14)
#define KPF_UNEVICTABLE (1ULL << 18)
#define KPF_HWPOISON (1ULL << 19)
#define KPF_KSM (1ULL << 21)
#define KPF_ZERO_PAGE (1ULL << 24)
#define KPF_PGTABLE (1ULL << 26)
#define KPF_RESERVED (1ULL << 32)

// Fails unless the page has all flags of the one set and none of the other.
void expect(uint64_t pfn, uint64_t set, uint64_t clear, const char *what);
// Fails unless that many page tables map the page.
void expect_mappings(uint64_t pfn, uint64_t count, const char *what);
// The number behind a word in a file of the kernel's, as in /proc/meminfo.
unsigned long number_in(const char *path, const char *word);
// How many huge pages of 2 MiB a node has, by its number as a string.
#define POOL(node) "/sys/devices/system/node/node" node "/hugepages/hugepages-2048kB/nr_hugepages"
// Fails unless a pool has just as many then.
void resize_pool(const char *path, unsigned long pages);

#endif
