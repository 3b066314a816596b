/* SPDX-License-Identifier: Apache-2.0 */
/* Outlives what becomes of a mapped list's file: ble_mapped.h. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "ble_mapped.h"

/* The handler walks these at any moment, so none is freed: one that is not in use is used again. */
static struct mamplus_ble_mapping *all;
static pthread_mutex_t changing = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static struct sigaction before;

static struct mamplus_ble_mapping *mapping_of(const unsigned char *at)
{
	struct mamplus_ble_mapping *one = __atomic_load_n(&all, __ATOMIC_ACQUIRE);

	for (; one; one = one->next) {
		const unsigned char *data = __atomic_load_n(&one->data, __ATOMIC_ACQUIRE);

		if (data && at >= data && at < data + one->size)
			break;
	}
	return one;
}

/* Marked first: another thread may read zeros at once. mmap() is a system call and no more. */
static int lose(struct mamplus_ble_mapping *mapping)
{
	__atomic_store_n(&mapping->is_lost, 1, __ATOMIC_RELEASE);
	return mmap((void *)(uintptr_t)mapping->data, mapping->size, PROT_READ,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED;
}

/* What is none of ours is somebody else's, as it was before; the default is that the read comes again and ends the process. */
static void pass_on(int number, siginfo_t *info, void *context)
{
	if (before.sa_flags & SA_SIGINFO)
		before.sa_sigaction(number, info, context);
	else if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN)
		before.sa_handler(number);
	else
		sigaction(number, &before, NULL);
}

static void on_bus_error(int number, siginfo_t *info, void *context)
{
	struct mamplus_ble_mapping *mapping = info->si_code == BUS_ADRERR ? mapping_of(info->si_addr) : NULL;
	int saved = errno;

	if (!mapping || lose(mapping))
		pass_on(number, info, context);
	errno = saved;
}

static void begin(void)
{
	struct sigaction ours = { .sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO | SA_ONSTACK };

	sigemptyset(&ours.sa_mask);
	sigaction(SIGBUS, &ours, &before);
}

/* One that is not in use, or a new one. */
static struct mamplus_ble_mapping *unused(void)
{
	struct mamplus_ble_mapping *one = all;

	while (one && one->data)
		one = one->next;
	if (one)
		return one;
	one = calloc(1, sizeof(*one));
	if (one) {
		one->next = all;
		__atomic_store_n(&all, one, __ATOMIC_RELEASE);
	}
	return one;
}

struct mamplus_ble_mapping *mamplus_ble_watch(const unsigned char *data, uint64_t size)
{
	struct mamplus_ble_mapping *one;

	pthread_once(&once, begin);
	pthread_mutex_lock(&changing);
	one = unused();
	if (one) {
		one->size = size;
		one->is_lost = 0;
		__atomic_store_n(&one->data, data, __ATOMIC_RELEASE);
	}
	pthread_mutex_unlock(&changing);
	return one;
}

void mamplus_ble_unwatch(struct mamplus_ble_mapping *mapping)
{
	__atomic_store_n(&mapping->data, NULL, __ATOMIC_RELEASE);
}
