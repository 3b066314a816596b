/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Whom the agent defends and restrains: the tasks below the scope's cgroup. */
#ifndef MAMPLUS_SCOPE_H
#define MAMPLUS_SCOPE_H

#include "maps.h"

static __always_inline bool in_scope(void)
{
	return bpf_current_task_under_cgroup(&scope, 0) == 1;
}

#endif
