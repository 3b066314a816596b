/* SPDX-License-Identifier: Apache-2.0 */
/* seizer PROGRAM ARGUMENT: as tracer, but by PTRACE_SEIZE, which sends no signal. */
#define ATTACH PTRACE_SEIZE
#include "tracer.c"
