/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Loads BPF objects, pins their maps and programs under a directory, and ends.
 *
 *     mamplus-loader DIR OBJECT...     maps as DIR/<map>, programs as DIR/prog_<name>
 *     mamplus-loader --probe           one line a feature: name, "yes" or "no", why not
 *     mamplus-loader --try OBJECT...   the same, of whole objects: loaded, not pinned, and gone
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
		int length;

		if (!bpf_program__autoload(program))
			continue;	/* this kernel has no such hook */
		length = snprintf(path, sizeof(path), "%s/prog_%s", dir, bpf_program__name(program));

		if (length < 0 || length >= (int)sizeof(path))
			return -ENAMETOOLONG;
		if (bpf_obj_pin(bpf_program__fd(program), path))
			return -errno;
	}
	return 0;
}

/* An LSM program loads on a kernel that was not told to call it (lsm= at boot): that would be no control. */
static int require_lsm(struct bpf_object *object)
{
	struct bpf_program *program;

	bpf_object__for_each_program(program, object) {
		int answer = bpf_program__type(program) == BPF_PROG_TYPE_LSM ? lsm_is_called() : 1;

		if (answer == 0)
			fprintf(stderr, "%s\n", LSM_NOT_CALLED);
		if (answer <= 0)
			return answer ? answer : -EOPNOTSUPP;
		if (bpf_program__type(program) == BPF_PROG_TYPE_LSM)
			break;	/* one answer serves all */
	}
	return 0;
}

static int load_opened(struct bpf_object *object)
{
	int error = require_lsm(object);

	if (!error)
		error = choose_programs(object);
	return error ? error : bpf_object__load(object);
}

static int load_object(const char *dir, const char *path)
{
	LIBBPF_OPTS(bpf_object_open_opts, options, .pin_root_path = dir);
	struct bpf_object *object = bpf_object__open_file(path, &options);
	int error;

	if (!object)
		return -errno;
	error = load_opened(object);
	if (!error)
		error = pin_programs(object, dir);
	bpf_object__close(object);
	return error;
}

/* With maps of its own, so that nothing that is pinned is touched. */
static int try_object(const char *path)
{
	struct bpf_object *object = bpf_object__open_file(path, NULL);
	struct bpf_map *map;
	int error;

	if (!object)
		return -errno;
	bpf_object__for_each_map(map, object)
		bpf_map__set_pin_path(map, NULL);
	error = load_opened(object);
	bpf_object__close(object);
	return error;
}

static int try_objects(char **paths)
{
	for (; *paths; paths++) {
		const char *name = strrchr(*paths, '/') ? strrchr(*paths, '/') + 1 : *paths;
		int length = strcspn(name, "."), error = try_object(*paths);

		if (error)
			printf("%.*s no %s\n", length, name, error == -EOPNOTSUPP ? LSM_NOT_CALLED : strerror(-error));
		else
			printf("%.*s yes\n", length, name);
	}
	return fflush(stdout) ? 1 : 0;
}

int main(int argc, char **argv)
{
	if (argc == 2 && strcmp(argv[1], "--probe") == 0) {
		libbpf_set_print(print_nothing);
		return probe_all();
	}
	if (argc > 2 && strcmp(argv[1], "--try") == 0) {
		libbpf_set_print(print_nothing);
		return try_objects(argv + 2);
	}
	if (argc < 3) {
		fprintf(stderr, "usage: mamplus-loader DIR OBJECT... | --probe | --try OBJECT...\n");
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
