/* SPDX-License-Identifier: Apache-2.0 */
/*
 * own_loader HOW FILE MARKER: run a static ELF program without execve(2).
 *
 *     copy    read it into anonymous memory (FILE "-": from standard input)
 *     map     map its segments executable, as ld.so does
 *     later   map them readable, and make them executable afterwards with mprotect(2)
 *     implied map them readable under personality(READ_IMPLIES_EXEC)
 *     remapped map them readable and shared, from a descriptor that may write, and once more by
 *             remap_file_pages(2) under that personality
 *     rewritten map those of FILE executable, and write the program, which comes from standard input, into it then
 *
 * Ends as that program ends; 1 and an errno on standard output when a call failed.
 */
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <unistd.h>

#define PAGE 4096UL
#define MOST_BYTES (1 << 20)

static unsigned char body[MOST_BYTES];
static size_t have;
static const char *how;

static void die(void)
{
	printf("%d\n", errno);
	exit(1);
}

static int is(const char *name)
{
	return strcmp(how, name) == 0;
}

static void read_all(int fd)
{
	ssize_t got;

	while ((got = read(fd, body + have, MOST_BYTES - have)) > 0)
		have += got;
	if (got < 0)
		die();
}

static void load_copy(const Elf64_Phdr *part, uintptr_t from, size_t size)
{
	void *at = mmap((void *)from, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);

	if (at == MAP_FAILED)
		die();
	memcpy((void *)part->p_vaddr, body + part->p_offset, part->p_filesz);
	if (mprotect(at, size, PROT_READ | PROT_EXEC))
		die();
}

static void load(const Elf64_Phdr *part, int fd)
{
	uintptr_t from = part->p_vaddr & ~(PAGE - 1);
	size_t size = (part->p_vaddr + part->p_memsz - from + PAGE - 1) & ~(PAGE - 1);
	int prot = PROT_READ | (is("map") || is("rewritten") ? PROT_EXEC : 0);
	int kind = is("remapped") ? MAP_SHARED : MAP_PRIVATE;
	off_t offset = part->p_offset & ~(PAGE - 1);

	if (is("copy")) {
		load_copy(part, from, size);
		return;
	}
	if (mmap((void *)from, size, prot, kind | MAP_FIXED, fd, offset) == MAP_FAILED)
		die();
	if (is("remapped") && (personality(READ_IMPLIES_EXEC) < 0 || remap_file_pages((void *)from, size, 0, offset / PAGE, 0)))
		die();
	if (is("later") && mprotect((void *)from, size, PROT_READ | PROT_EXEC))
		die();
}

static void rewrite(const char *path)
{
	int fd = open(path, O_WRONLY);

	if (fd < 0 || write(fd, body, have) != (ssize_t)have)
		die();
}

static void start(uintptr_t entry, const char *marker)
{
	const void *stack[] = { (void *)2, "x", marker, NULL, NULL, NULL, NULL };

#if defined(__x86_64__)
	__asm__ volatile("mov %0, %%rsp\n jmp *%1\n" : : "r"(stack), "r"(entry) : "memory");
#elif defined(__aarch64__)
	__asm__ volatile("mov sp, %0\n br %1\n" : : "r"(stack), "r"(entry) : "memory");
#endif
}

int main(int argc, char **argv)
{
	const Elf64_Ehdr *head = (const void *)body;
	const Elf64_Phdr *part;
	int fd;

	if (argc != 4)
		return 2;
	how = argv[1];
	if (is("implied") && personality(READ_IMPLIES_EXEC) < 0)
		die();
	fd = strcmp(argv[2], "-") ? open(argv[2], is("remapped") ? O_RDWR : O_RDONLY) : STDIN_FILENO;
	if (fd < 0)
		die();
	read_all(is("rewritten") ? STDIN_FILENO : fd);
	part = (const void *)(body + head->e_phoff);
	for (int i = 0; i < head->e_phnum; i++)
		if (part[i].p_type == PT_LOAD && part[i].p_filesz)
			load(&part[i], fd);
	if (is("rewritten"))
		rewrite(argv[2]);
	start(head->e_entry, argv[3]);
	return 3;
}
