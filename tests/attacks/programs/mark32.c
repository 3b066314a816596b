/* SPDX-License-Identifier: Apache-2.0 */
/* mark32 FILE: as tests/kernel/programs/mark.c, as a program of 32 bits. No libc, no loader. */
#define O_CREAT_WRONLY 0101
#define NR_OPEN 5
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
	call(NR_OPEN, stack[2], O_CREAT_WRONLY, 0600);
	call(NR_EXIT, 7, 0, 0);
}
