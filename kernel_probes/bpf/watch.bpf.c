/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What is decided about a file that somebody opens, where the fanotify tier asks: the same `known` map, the same
 * tables and the same posture as for a program that starts.
 *
 * Hook:    none. mamplus_access is run by the responder (or its keeper) through BPF_PROG_TEST_RUN, with the record in
 *          the map `asked`; raw_tp, because that can be run so since 5.10.
 * Emits:   struct mamplus_access, when asked to and something is to be told.
 * Returns: MAMPLUS_ACCESS_ bits; 0 when the content is not known and no declared answer was asked for.
 * Missing: no room in the events ring: a counted loss, and the same answer.
 */
#include "exec_logic.h"
#include "mamplus_watch.h"

MAMPLUS_SINGLE(watch, struct mamplus_watch, BPF_F_MMAPABLE);

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAMPLUS_ASKED_MAX);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct mamplus_access);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} asked SEC(".maps");

static __always_inline void judge_content(struct mamplus_access *access, const struct mamplus_known *entry)
{
	__u64 word = ble_word();

	__builtin_memcpy(access->sha256, entry->sha256, MAMPLUS_SHA256_LEN);
	access->head.generation = ble_generation(word);
	take_hit(&access->head, ble_content(word, access->sha256));
	refuse_blocked(&access->head);
}

static __always_inline void declare(struct mamplus_access *access, __u32 flags)
{
	access->head.generation = ble_generation(ble_word());
	access->head.flags |= MAMPLUS_F_DECLARED | MAMPLUS_F_UNKNOWN;
	if (flags & MAMPLUS_ASK_DECLARED_REFUSE)
		access->head.flags |= is_monitor() ? MAMPLUS_F_MONITOR : MAMPLUS_F_REFUSED;
}

static __always_inline int reply_for(const struct mamplus_head *head)
{
	int reply = head->flags & MAMPLUS_F_DECLARED ? 0 : MAMPLUS_ACCESS_KNOWN;

	if (head->flags & MAMPLUS_F_REFUSED)
		reply |= MAMPLUS_ACCESS_REFUSE;
	if (head->verdict == MAMPLUS_SUSPECT || head->verdict == MAMPLUS_BLOCK)
		reply |= MAMPLUS_ACCESS_LISTED;
	return reply;
}

static __always_inline void report(struct mamplus_access *access, __u32 flags)
{
	if (flags & MAMPLUS_ASK_LATE)
		access->head.flags &= ~MAMPLUS_F_REFUSED;
	if (access->head.flags & MAMPLUS_F_REFUSED)
		count(MAMPLUS_C_REFUSED);
	if (access->head.flags & MAMPLUS_F_DECLARED)
		count(MAMPLUS_C_DECLARED);
	if (reply_for(&access->head) & (MAMPLUS_ACCESS_REFUSE | MAMPLUS_ACCESS_LISTED))
		emit(access, sizeof(*access), true);
}

SEC("raw_tp/mamplus_access")
int mamplus_access(struct bpf_raw_tracepoint_args *ctx)
{
	struct mamplus_access_args args;
	struct mamplus_access *access;
	struct mamplus_known *entry;
	int reply;

	bpf_probe_read_kernel(&args, sizeof(args), ctx->args);
	access = bpf_map_lookup_elem(&asked, &args.slot);
	if (!access)
		return 0;
	access->head.verdict = MAMPLUS_NOTHING;
	access->head.slot = MAMPLUS_NO_SLOT;
	access->head.flags = 0;
	entry = believed(&access->file);
	if (entry && (args.flags & MAMPLUS_ASK_HASHED || !(entry->flags & MAMPLUS_KNOWN_ONCE)))
		judge_content(access, entry);
	else if (args.flags & MAMPLUS_ASK_DECLARED)
		declare(access, args.flags);
	else
		return 0;
	reply = reply_for(&access->head);
	if (args.flags & MAMPLUS_ASK_REPORT)
		report(access, args.flags);
	return reply;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
