/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Loads BPF objects, pins their maps and programs under a directory, and ends.
 *
 *     mamplus-loader DIR OBJECT...     maps as DIR/<map>, programs as DIR/prog_<name>
 *     mamplus-loader --probe           one line a feature: name, "yes" or "no", why not
 *
 * A process of its own, so that libbpf and the kernel's type information, some 20 MB while it
 * works, are never part of the agent; and an executable, because Debian's libbpf.a is not
 * made for shared objects. It attaches nothing: the agent does, from the pins.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <linux/bpf.h>

#include "loader.h"

static int print_warnings(enum libbpf_print_level level, const char *format, va_list arguments)
{
	return level == LIBBPF_WARN ? vfprintf(stderr, format, arguments) : 0;
}

static int print_nothing(enum libbpf_print_level level, const char *format, va_list arguments)
{
	(void)level;
	(void)format;
	(void)arguments;
	return 0;
}

static int pin_programs(struct bpf_object *object, const char *dir)
{
	struct bpf_program *program;
	char path[512];

	bpf_object__for_each_program(program, object) {
		int length = snprintf(path, sizeof(path), "%s/prog_%s", dir, bpf_program__name(program));

		if (length < 0 || length >= (int)sizeof(path))
			return -ENAMETOOLONG;
		if (bpf_obj_pin(bpf_program__fd(program), path))
			return -errno;
	}
	return 0;
}

static int load_object(const char *dir, const char *path)
{
	LIBBPF_OPTS(bpf_object_open_opts, options, .pin_root_path = dir);
	struct bpf_object *object = bpf_object__open_file(path, &options);
	int error;

	if (!object)
		return -errno;
	error = bpf_object__load(object);
	if (!error)
		error = pin_programs(object, dir);
	bpf_object__close(object);
	return error;
}

int main(int argc, char **argv)
{
	if (argc == 2 && strcmp(argv[1], "--probe") == 0) {
		libbpf_set_print(print_nothing);
		return probe_all();
	}
	if (argc < 3) {
		fprintf(stderr, "usage: mamplus-loader DIR OBJECT... | --probe\n");
		return 2;
	}
	libbpf_set_print(print_warnings);
	for (int i = 2; i < argc; i++) {
		int error = load_object(argv[1], argv[i]);

		if (error) {
			fprintf(stderr, "mamplus-loader: %s: %s\n", argv[i], strerror(-error));
			return -error < 126 ? -error : 1;
		}
	}
	return 0;
}
