// SPDX-License-Identifier: LGPL-2.1-or-later
// A Python that looks at the kernel it runs on.
#ifndef PYTHON_H
#define PYTHON_H

#include <sys/types.h>

// Mounts the disk with the Python that the emulator's command line names, and starts /inside.py there.
pid_t start_python(const char *disk);

#endif
