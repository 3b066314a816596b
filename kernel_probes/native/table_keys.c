/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * From the columns of a generation's file to words of a table: what stands for a key, and with
 * which verdict. Many at a time, one kind of work after the other, so that the compiler and the
 * processor overlap what belongs to different entries.
 */
#include <endian.h>
#include <errno.h>

#include "ble_file.h"
#include "table_words.h"

#define NET_BYTES 20
#define NET_PREFIX 16		/* in a key of the section net: after the network */
#define NET_PROTOCOL 17
#define NET_PORT 18

uint32_t key_bytes(uint16_t section)
{
	switch (section) {
	case MAMPLUS_BLE_SHA256: return 32;
	case MAMPLUS_BLE_IP4: return 4;
	case MAMPLUS_BLE_IP6: return 16;
	case MAMPLUS_BLE_NET: return NET_BYTES;
	case MAMPLUS_BLE_DOMAIN: return 8;
	default: return 0;
	}
}

static uint64_t identity6(const struct mamplus_build *build, const unsigned char *addr, uint64_t qualified)
{
	unsigned long long key[3] = { be64toh(read64(addr)), be64toh(read64(addr + 8)), qualified };

	return mamplus_identity(salt_of(build), key, 3);
}

static bool is_v4(const unsigned char *addr)
{
	static const unsigned char mapped[12] = { 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff };

	return !memcmp(addr, mapped, sizeof(mapped));
}

struct network {
	uint32_t prefix;
	uint32_t protocol, port;
	uint32_t qualifier;		/* MAMPLUS_Q_ */
};

static struct network network_of(const unsigned char *key)
{
	struct network net = { key[NET_PREFIX], key[NET_PROTOCOL], be16toh(read16(key + NET_PORT)), 0 };

	net.prefix = net.prefix <= 128 ? net.prefix : 128;
	net.qualifier = (net.port ? MAMPLUS_Q_PORT : 0) | (net.protocol ? MAMPLUS_Q_PROTOCOL : 0);
	return net;
}

static bool is_network4(const unsigned char *key, const struct network *net)
{
	return is_v4(key) && net->prefix >= 96;
}

static bool is_port(const struct network *net)
{
	return !net->prefix && net->port;
}

/* 0: of an IPv6 length and qualifier that is left out. An identity of 0 is as good as left out: one in 2^61. */
static uint64_t identity_net(struct mamplus_build *counted, const unsigned char *key)
{
	struct network net = network_of(key);
	uint32_t pair = net.prefix * 4 + net.qualifier;

	if (is_network4(key, &net)) {
		counted->probes4[pair - 96 * 4]++;
		if (counted->mask_bits)
			mark_network4(counted, be32toh(read32(key + 12)), net.prefix - 96);
		return mamplus_identity4(be32toh(read32(key + 12)), net.prefix - 96, net.protocol, net.port);
	}
	if (is_port(&net))
		counted->ports[net.qualifier]++;
	else if (counted->skip6[pair])
		return 0;
	else if ((!counted->probes6[pair]++ || net.prefix >= MAMPLUS_MASK6_LEAST) && counted->mask_bits)	/* in every mask: once */
		mark_network6(counted, be32toh(read32(key)), net.prefix);
	return identity6(counted, key, mamplus_qualified6(net.prefix, net.protocol, net.port));
}

void mamplus_build_recount6(struct mamplus_build *build, const struct mamplus_columns *columns, uint8_t *seen)
{
	const unsigned char *key = columns->keys;
	struct stash stash = stash_of(build);

	for (uint32_t i = 0; i < columns->count; i++, key += NET_BYTES) {
		struct network net = network_of(key);
		uint64_t identity, *held;
		size_t at;

		if (is_network4(key, &net) || is_port(&net))
			continue;
		identity = identity6(build, key, mamplus_qualified6(net.prefix, net.protocol, net.port));
		held = find_word(build, &stash, identity << MAMPLUS_VERDICT_BITS);
		at = held ? held - build->words : 0;
		if (!held || seen[at / 8] & 1 << at % 8)
			continue;
		seen[at / 8] |= 1 << at % 8;
		build->probes6[net.prefix * 4 + net.qualifier]++;
	}
}

static uint64_t identity_sha256(const struct mamplus_build *build, const unsigned char *key)
{
	unsigned long long words[4];

	memcpy(words, key, sizeof(words));
	return mamplus_identity(salt_of(build), words, 4);
}

static uint64_t identity_name(const struct mamplus_build *build, const unsigned char *name, uint32_t length,
			      uint32_t is_alone)
{
	struct mamplus_name sum = { 0, 0 };

	while (length--)
		mamplus_name_add(salt_of(build), &sum, name[length]);
	return mamplus_identity_name(salt_of(build), &sum, is_alone);
}

/* The names of entries, from the column of texts: a length of two bytes, an "=" for the name alone, the name. */
static int identities_of_names(const struct mamplus_build *build, const struct mamplus_columns *columns,
			       uint32_t first, uint32_t count, uint64_t *identities)
{
	for (uint32_t i = 0; i < count; i++) {
		uint64_t at = le32toh(read32(columns->texts + (size_t)(first + i) * 4));
		const unsigned char *text = columns->strings + at + 2;
		uint32_t length, is_alone;

		if (at + 2 > columns->strings_size)
			return -EINVAL;
		length = le16toh(read16(text - 2));
		if (!length || at + 2 + length > columns->strings_size)
			return -EINVAL;
		is_alone = *text == '=';
		identities[i] = identity_name(build, text + is_alone, length - is_alone, is_alone);
	}
	return 0;
}

int make_identities(struct mamplus_build *counted, const struct mamplus_columns *columns, uint32_t first, uint32_t count,
		    uint64_t *identities)
{
	const unsigned char *key = columns->keys + (size_t)first * key_bytes(columns->section);
	const uint64_t host6 = mamplus_qualified6(128, 0, 0);

	switch (columns->section) {
	case MAMPLUS_BLE_SHA256:
		for (uint32_t i = 0; i < count; i++, key += 32)
			identities[i] = identity_sha256(counted, key);
		return 0;
	case MAMPLUS_BLE_IP4:
		for (uint32_t i = 0; i < count; i++, key += 4)
			identities[i] = mamplus_identity4(be32toh(read32(key)), 32, 0, 0);
		return 0;
	case MAMPLUS_BLE_IP6:
		for (uint32_t i = 0; i < count; i++, key += 16)
			identities[i] = identity6(counted, key, host6);
		return 0;
	case MAMPLUS_BLE_NET:
		for (uint32_t i = 0; i < count; i++, key += NET_BYTES)
			identities[i] = identity_net(counted, key);
		return 0;
	case MAMPLUS_BLE_DOMAIN:
		return identities_of_names(counted, columns, first, count, identities);
	default:
		return -EINVAL;
	}
}

/* Without dates, which is most of the time, one pass over them finds that out. */
static bool none_ends(const unsigned char *ends, uint32_t count)
{
	uint32_t any = 0;

	for (uint32_t i = 0; i < count; i++)
		any |= read32(ends + (size_t)i * 4);
	return !any;
}

/* False: its time is over. */
static bool is_live(struct mamplus_build *counted, const unsigned char *end)
{
	uint64_t end_s = le32toh(read32(end));

	if (end_s && end_s <= counted->now_s) {
		counted->expired++;
		return false;
	}
	if (end_s && (!counted->next_end_s || end_s < counted->next_end_s))
		counted->next_end_s = end_s;
	return true;
}

int verdict_of(const struct mamplus_columns *columns, uint32_t index)
{
	uint32_t group = le32toh(read32(columns->groups + (size_t)index * 4));

	if (group >= columns->group_count || columns->verdicts[group] > OVER_BUDGET)
		return -EINVAL;
	if (columns->has_cut && group == columns->cut_group && index >= columns->cut)
		return OVER_BUDGET;
	return columns->verdicts[group];
}

/* verdicts as they stand in the file's groups; 0 or -EINVAL. *any: bits that one of them has. */
static int named_verdicts(const struct mamplus_columns *columns, uint32_t first, uint32_t count, uint8_t *verdicts,
			  uint32_t *any)
{
	const unsigned char *groups = columns->groups + (size_t)first * 4;
	const uint8_t *known = columns->verdicts;
	uint32_t group_count = columns->group_count, worst = 0, all = 0;

	for (uint32_t i = 0; i < count; i++) {
		uint32_t group = le32toh(read32(groups + (size_t)i * 4));

		if (group >= group_count)
			return -EINVAL;
		verdicts[i] = known[group];
		worst |= verdicts[i] - 1U;	/* in a whole list nothing is withdrawn: 0 becomes large */
		all |= verdicts[i];
	}
	*any = all;
	return worst < OVER_BUDGET ? 0 : -EINVAL;
}

/* verdicts: 0 for what is left out. Returns whether any is; -EINVAL. */
static int verdicts_of(struct mamplus_build *counted, const struct mamplus_columns *columns, uint32_t first,
		       uint32_t count, uint8_t *verdicts)
{
	const unsigned char *ends = columns->ends + (size_t)first * 4;
	uint32_t any = 0;
	int error = named_verdicts(columns, first, count, verdicts, &any);

	if (error || (!columns->has_cut && !(any & OVER_BUDGET) && none_ends(ends, count)))
		return error;
	for (uint32_t i = 0; columns->has_cut && i < count; i++)
		if (first + i >= columns->cut && le32toh(read32(columns->groups + ((size_t)first + i) * 4)) == columns->cut_group)
			verdicts[i] = OVER_BUDGET;
	if (!none_ends(ends, count))
		for (uint32_t i = 0; i < count; i++)
			if (!is_live(counted, ends + (size_t)i * 4))
				verdicts[i] = 0;
	for (uint32_t i = 0; i < count; i++) {
		counted->over_budget += verdicts[i] / OVER_BUDGET;
		verdicts[i] &= MAMPLUS_VERDICT_MASK;
	}
	return true;
}

int make_words(struct mamplus_build *counted, const struct mamplus_columns *columns, uint32_t first, uint32_t count,
	       uint64_t *words)
{
	uint8_t verdicts[KEYS_AT_ONCE];
	int left_out = verdicts_of(counted, columns, first, count, verdicts);
	int error = left_out < 0 ? left_out : make_identities(counted, columns, first, count, words);

	for (uint32_t i = 0; i < count && !error; i++)
		words[i] = (words[i] << MAMPLUS_VERDICT_BITS | verdicts[i]) & -(uint64_t)(words[i] != 0);
	for (uint32_t i = 0; i < count && left_out > 0; i++)
		words[i] &= -(uint64_t)(verdicts[i] != 0);
	return error;
}

int mamplus_count_groups(const struct mamplus_columns *columns, uint64_t now_s, uint64_t *counts)
{
	for (uint32_t i = 0; i < columns->count; i++) {
		uint32_t group = le32toh(read32(columns->groups + (size_t)i * 4));
		uint32_t end_s = le32toh(read32(columns->ends + (size_t)i * 4));

		if (group >= columns->group_count)
			return -EINVAL;
		counts[group] += !end_s || end_s > now_s;
	}
	return 0;
}

uint32_t mamplus_count_until(const struct mamplus_columns *columns, uint64_t now_s, uint32_t group, uint64_t *wanted)
{
	uint32_t i;

	for (i = 0; i < columns->count && *wanted; i++) {
		uint32_t end_s = le32toh(read32(columns->ends + (size_t)i * 4));

		*wanted -= le32toh(read32(columns->groups + (size_t)i * 4)) == group && (!end_s || end_s > now_s);
	}
	return i;
}
