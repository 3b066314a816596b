/* SPDX-License-Identifier: Apache-2.0 */
/* caller32 PROGRAM ARGUMENT: start it with the execve of a program of 32 bits. No libc, no loader. */
#define NR_EXECVE 11
#define NR_EXIT 1

__asm__(".globl _start\n_start:\n mov %esp, %eax\n and $-16, %esp\n sub $12, %esp\n push %eax\n call begin\n");

static long call(long number, long a, long b, long c)
{
	long result;

	__asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c) : "memory");
	return result;
}

/* stack: argc, argv[0], argv[1], ... */
__attribute__((used)) void begin(long *stack)
{
	long none = 0;

	call(NR_EXECVE, stack[2], (long)&stack[2], (long)&none);
	call(NR_EXIT, 1, 0, 0);
}
