/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Maps of the file guards. Only their object makes them: a kernel that does not take it pays nothing. */
#ifndef MAMPLUS_FILE_MAPS_H
#define MAMPLUS_FILE_MAPS_H

#include "maps.h"
#include "mamplus_files.h"

MAMPLUS_KEYED(guards, HASH, MAMPLUS_GUARDED_MAX, struct mamplus_file_key, struct mamplus_guarded, BPF_F_NO_PREALLOC);

MAMPLUS_KEYED(guard_names, HASH, MAMPLUS_NAMES_MAX, struct mamplus_guard_name, __u64, BPF_F_NO_PREALLOC);

MAMPLUS_KEYED(guard_writers, HASH, MAMPLUS_WRITERS_MAX, struct mamplus_sha256, struct mamplus_writer, BPF_F_NO_PREALLOC);

MAMPLUS_SINGLE(file_rules, struct mamplus_file_rules, BPF_F_MMAPABLE);

#endif
