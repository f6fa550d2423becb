// SPDX-License-Identifier: LGPL-2.1-or-later
// What a process does with files, of which each has one of its own in every filesystem.
#include "load.h"

static const char *const places[] = {"/tmpfs", "/tmpfs-huge", "/ext4"};
static int file[ARRAY_SIZE(places)], ends[2] = {-1, -1};

void open_files(int number)
{
	for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
		char path[64];
		snprintf(path, sizeof(path), "%s/load%d", places[i], number);
		file[i] = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
		// Never shorter: who touches what is mapped behind the end dies.
		must(file[i] >= 0 && ftruncate(file[i], FILE_PAGES * PAGE) == 0, path);
	}
}

static void splice_some(int fd)
{
	loff_t offset = roll(FILE_PAGES) * PAGE;
	if (ends[0] >= 0) {
		close(ends[0]);
		close(ends[1]);
		ends[0] = -1;
		return;
	}
	must(pipe2(ends, O_NONBLOCK | O_CLOEXEC) == 0, "pipe");
	splice(fd, &offset, ends[1], NULL, (1 + roll(4)) * PAGE, SPLICE_F_NONBLOCK);
}

void use_files(int number)
{
	static char buffer[4 * PAGE];
	int fd = file[roll(ARRAY_SIZE(places))];
	size_t pages = 1 + roll(4), first = roll(FILE_PAGES - pages + 1);
	char *where = ARENA + roll(ARENA_PAGES - pages + 1) * PAGE;
	memset(buffer, number + pages, sizeof(buffer));
	switch (roll(9)) {
	case 0:
	case 1:
		if (pwrite(fd, buffer, pages * PAGE, first * PAGE) < 0)
			return;
		break;
	case 2:
		if (pread(fd, buffer, pages * PAGE, first * PAGE) < 0)
			return;
		break;
	case 3:
		// The memory of what was mapped there before is given back.
		must(mmap(where, pages * PAGE, PROT_READ | PROT_WRITE, (roll(2) ? MAP_SHARED : MAP_PRIVATE) | MAP_FIXED, fd,
			   first * PAGE) == where, "mmap of a file");
		touch(where, pages * PAGE);
		break;
	case 4:
		fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, first * PAGE, pages * PAGE);
		break;
	case 5:
		fdatasync(fd);
		break;
	case 6:
		posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
		break;
	case 7:
		splice_some(fd);
		break;
	case 8:
		msync(where, pages * PAGE, MS_SYNC);
		break;
	}
}
