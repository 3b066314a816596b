/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* watch_waits FILE OTHER: two opens wait for FILE, the first one's time ends while it is hashed, and OTHER is wanted, too. */
#include <fcntl.h>
#include <stdio.h>

#include "responder_watch_waits.c"
#include "responder_watch_hash.c"

/* As long as it is told to go on, it reads one block more, and time goes by for whoever waits. */
static unsigned int blocks, at_block;
static void (*on_block)(void);
static struct mamplus_watch page;
struct watch_pins watch_pins = { .watch = &page };

bool digest_open(struct digest *digest) { return digest != NULL; }

bool digest_fd(struct digest *digest, int fd, bool (*go_on)(void *argument), void *argument, unsigned char *sha256)
{
	for (at_block = 0; at_block < blocks; at_block++) {
		if (on_block)
			on_block();
		if (!go_on(argument))
			return false;
	}
	return digest && sha256 && fd > 0;
}

uint64_t boot_ns(void) { static uint64_t now; return ++now; }
bool hash_remember(int fd, const struct mamplus_file *file, const unsigned char *sha256)
{
	return fd > 0 && file && sha256;
}
unsigned int jobs_open(void) { return 0; }
void watch_count(enum mamplus_watch_counter counter) { page.counter[counter]++; }

static struct opening opening(const char *path, uint64_t since_ns)
{
	struct opening made = { .fd = open(path, O_RDONLY), .since_ns = since_ns };
	struct stat stat;

	fstat(made.fd, &stat);
	made.file = (struct mamplus_file){ .ino = stat.st_ino, .size = stat.st_size, .ctime_s = stat.st_ctim.tv_sec,
					   .ctime_ns = stat.st_ctim.tv_nsec };
	return made;
}

static unsigned int said_early, said_hashed, said_let_go;

static void settled(const struct opening *opening, bool is_hashed, bool is_let_go)
{
	(void)opening;
	said_let_go += is_let_go;
	said_hashed += is_hashed && !is_let_go;
	said_early += !is_hashed && !is_let_go;
}

static const char *other;

/* In the third block the first waiter's time is over, and somebody comes who wants another file. */
static void first_is_late(void)
{
	struct opening more = opening(other, 30);
	uint64_t next_ns = UINT64_MAX;

	if (at_block != 3)
		return;
	waits_each(settled, 150, &next_ns);
	wait_add(&more, 2000, true, false);
}

int main(int argc, char **argv)
{
	struct opening first = opening(argv[1], 10), second = opening(argv[1], 20);
	static struct digest digest;
	uint64_t next_ns = UINT64_MAX;

	other = argv[argc - 1];
	wait_add(&first, 100, true, false);
	wait_add(&second, 1000, true, false);
	blocks = 6;
	on_block = first_is_late;
	serve_one(&digest);
	waits_each(settled, 200, &next_ns);
	printf("early %u hashed %u late %u\n", said_early, said_hashed, said_let_go);
	return 0;
}
