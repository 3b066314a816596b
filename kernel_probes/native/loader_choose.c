/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Which programs of an object this kernel has a hook for.
 *
 * A program in a section that begins with "?" is loaded only where its LSM hook or function exists, and, when
 * its name ends in _<N>args, only where that hook has so many arguments: asked of the kernel's BTF.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <bpf/btf.h>
#include <bpf/libbpf.h>

#include "loader.h"

/* How many arguments a hook has, "lsm/..." or a function; -1: the kernel does not have it. */
static int arguments_of(const struct btf *btf, const char *section, const char *hook)
{
	char name[128];
	const struct btf_type *type;
	int id;

	snprintf(name, sizeof(name), "%s%s", strncmp(section, "lsm", 3) ? "" : "bpf_lsm_", hook);
	id = btf__find_by_name_kind(btf, name, BTF_KIND_FUNC);
	type = id > 0 ? btf__type_by_id(btf, id) : NULL;
	type = type ? btf__type_by_id(btf, type->type) : NULL;
	return type ? btf_vlen(type) : -1;
}

/* What the name wants; -1: any number. */
static int wanted_arguments(const char *program)
{
	const char *end = strrchr(program, '_');
	int wanted, length = 0;

	if (end && sscanf(end, "_%dargs%n", &wanted, &length) == 1 && length && !end[length])
		return wanted;
	return -1;
}

static bool has_hook(const struct btf *btf, const struct bpf_program *program)
{
	const char *section = bpf_program__section_name(program), *hook = strchr(section, '/');
	int wanted = wanted_arguments(bpf_program__name(program));
	int present = hook ? arguments_of(btf, section, hook + 1) : -1;

	return present >= 0 && (wanted < 0 || wanted == present);
}

int choose_programs(struct bpf_object *object)
{
	struct btf *btf = NULL;
	struct bpf_program *program;
	int error = 0;

	bpf_object__for_each_program(program, object) {
		if (bpf_program__autoload(program))
			continue;
		if (!btf)
			btf = btf__load_vmlinux_btf();
		if (!btf)
			return -errno;
		if (has_hook(btf, program))
			error = bpf_program__set_autoload(program, true);
		if (error)
			break;
	}
	btf__free(btf);
	return error;
}
