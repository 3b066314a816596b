/* SPDX-License-Identifier: Apache-2.0 */
/* quiet: end with 7, and leave no mark: what a file holds before an attacker writes another program into it. */
#if defined(__x86_64__)
__asm__(".globl _start\n_start:\n mov $60, %eax\n mov $7, %edi\n syscall\n");
#elif defined(__aarch64__)
__asm__(".globl _start\n_start:\n mov x8, #93\n mov x0, #7\n svc 0\n");
#endif
