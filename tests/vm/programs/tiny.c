/* SPDX-License-Identifier: Apache-2.0 */
/* The least that a program can be: it ends with 7. Built with -static -nostdlib. */
#include <sys/syscall.h>

#define STARTED 7

void _start(void)
{
#if defined(__x86_64__)
	__asm__ volatile("syscall" : : "a"(SYS_exit), "D"(STARTED) : "rcx", "r11", "memory");
#else
	register long number __asm__("x8") = SYS_exit, code __asm__("x0") = STARTED;

	__asm__ volatile("svc 0" : : "r"(number), "r"(code) : "memory");
#endif
	for (;;)
		;
}
