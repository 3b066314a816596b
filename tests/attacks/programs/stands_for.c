/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stands_for PIN FUNCTION PROGRAM ARG...: have a program of one's own, which returns 0, stand for a function of the BPF
 * program that is pinned at PIN (freplace), and start PROGRAM meanwhile. Ends as that does, 77 when this kernel takes no
 * such program; 1 and an errno on standard output when something else failed.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/btf.h>

#define NOT_HERE 77

static int die(int error)
{
	printf("%d\n", error);
	exit(1);
}

/* The types of `function` (u32, u64, u64) -> u64; the id of the function. */
static int describe(struct btf *btf, const char *function)
{
	int word = btf__add_int(btf, "unsigned long long", 8, 0), half = btf__add_int(btf, "unsigned int", 4, 0), proto;

	proto = btf__add_func_proto(btf, word);
	btf__add_func_param(btf, "which", half);
	btf__add_func_param(btf, "word", word);
	btf__add_func_param(btf, "identity", word);
	return btf__add_func(btf, function, BTF_FUNC_GLOBAL, proto);
}

static int function_of(int program, const char *function)
{
	struct bpf_prog_info info = { 0 };
	__u32 size = sizeof(info);
	struct btf *btf;

	if (bpf_obj_get_info_by_fd(program, &info, &size))
		return die(errno);
	btf = btf__load_from_kernel_by_id(info.btf_id);
	return btf ? btf__find_by_name_kind(btf, function, BTF_KIND_FUNC) : die(errno);
}

static void replace(const char *pin, const char *function)
{
	struct bpf_insn code[] = {
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0, .imm = 0 },
		{ .code = BPF_JMP | BPF_EXIT },
	};
	struct btf *btf = btf__new_empty();
	struct bpf_func_info about = { .insn_off = 0, .type_id = describe(btf, function) };
	LIBBPF_OPTS(bpf_prog_load_opts, options, .func_info = &about, .func_info_cnt = 1, .func_info_rec_size = sizeof(about));
	int target = bpf_obj_get(pin), program;

	if (target < 0)
		die(errno);
	if (btf__load_into_kernel(btf))
		die(errno);
	options.prog_btf_fd = btf__fd(btf);
	options.attach_prog_fd = target;
	options.attach_btf_id = function_of(target, function);
	program = bpf_prog_load(BPF_PROG_TYPE_EXT, "stands_for", "GPL", code, sizeof(code) / sizeof(*code), &options);
	if (program < 0 || bpf_raw_tracepoint_open(NULL, program) < 0)
		exit(NOT_HERE);
}

int main(int argc, char **argv)
{
	int status = 0;
	pid_t pid;

	if (argc < 4)
		return 2;
	replace(argv[1], argv[2]);
	pid = fork();
	if (pid == 0) {
		execv(argv[3], argv + 3);
		_exit(die(errno));
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		return die(errno);
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}
