/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which of two versions is newer, as the package managers themselves say.
 *
 * Debian: Debian Policy 5.6.12 (parts without digits by letter, `~` before the end, the end before
 * letters, letters before the rest; parts of digits by number). rpm: rpm-version(7) (runs of letters
 * or digits, what separates them is of no account, a number is newer than letters, `~` is older than the
 * end, `^` newer than the end and older than anything else). tests/pure/test_versions.py asks dpkg and rpm.
 */
#include <string.h>

#include "value_text.h"

struct span {
	const unsigned char *at;
	const unsigned char *end;
};

struct version {
	struct span epoch;
	struct span upstream;
	struct span revision;
	int has_revision;
};

static int is_digit(unsigned char byte)
{
	return byte >= '0' && byte <= '9';
}

static int is_letter(unsigned char byte)
{
	return (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z');
}

static int sign(int value)
{
	return (value > 0) - (value < 0);
}

static struct span digits_at(const unsigned char *at, const unsigned char *end)
{
	struct span digits;

	while (at < end && *at == '0')
		at++;
	digits.at = digits.end = at;
	while (digits.end < end && is_digit(*digits.end))
		digits.end++;
	return digits;
}

/* Numbers of any length, without leading zeros: the longer one is greater. */
static int number_order(struct span one, struct span two)
{
	long one_length = one.end - one.at, two_length = two.end - two.at;

	if (one_length != two_length)
		return one_length < two_length ? -1 : 1;
	return sign(memcmp(one.at, two.at, (size_t)one_length));
}

/* Debian's weight of what stands at the beginning of a span. */
static int weight(const struct span *span)
{
	unsigned char byte;

	if (span->at == span->end || is_digit(*span->at))
		return 0;
	byte = *span->at;
	return byte == '~' ? -1 : is_letter(byte) ? byte : byte + 256;
}

static int is_at_digit(const struct span *span)
{
	return span->at < span->end && is_digit(*span->at);
}

static int deb_order(struct span one, struct span two)
{
	struct span one_number, two_number;
	int order;

	while (one.at < one.end || two.at < two.end) {
		while ((one.at < one.end && !is_at_digit(&one)) || (two.at < two.end && !is_at_digit(&two))) {
			order = weight(&one) - weight(&two);
			if (order)
				return sign(order);
			one.at += one.at < one.end;
			two.at += two.at < two.end;
		}
		one_number = digits_at(one.at, one.end);
		two_number = digits_at(two.at, two.end);
		order = number_order(one_number, two_number);
		if (order)
			return order;
		one.at = one_number.end;
		two.at = two_number.end;
	}
	return 0;
}

static int is_of_segment(unsigned char byte)
{
	return is_digit(byte) || is_letter(byte);
}

static int stands(const struct span *span, unsigned char byte)
{
	return span->at < span->end && *span->at == byte;
}

static void skip_separators(struct span *span)
{
	while (span->at < span->end && !is_of_segment(*span->at) && *span->at != '~' && *span->at != '^')
		span->at++;
}

/* `~` and `^`. 0: neither stands here; 1: both had the same, and it is behind them; else 2 and *order. */
static int rpm_marks(struct span *one, struct span *two, int *order)
{
	if (stands(one, '~') || stands(two, '~')) {
		*order = stands(two, '~') - stands(one, '~');
	} else if (stands(one, '^') || stands(two, '^')) {
		if (one->at == one->end || two->at == two->end)
			*order = one->at == one->end ? -1 : 1;
		else
			*order = stands(two, '^') - stands(one, '^');
	} else {
		return 0;
	}
	if (*order)
		return 2;
	one->at++;
	two->at++;
	return 1;
}

static struct span letters_at(const unsigned char *at, const unsigned char *end)
{
	struct span letters = { at, at };

	while (letters.end < end && is_letter(*letters.end))
		letters.end++;
	return letters;
}

static int letter_order(struct span one, struct span two)
{
	size_t one_length = (size_t)(one.end - one.at), two_length = (size_t)(two.end - two.at);
	int order = memcmp(one.at, two.at, one_length < two_length ? one_length : two_length);

	return order ? sign(order) : (one_length > two_length) - (one_length < two_length);
}

/* The segments that both begin with; moves behind them. */
static int segment_order(struct span *one, struct span *two)
{
	int is_number = is_at_digit(one), order;
	struct span one_part, two_part;

	if (is_number != is_at_digit(two))
		return is_number ? 1 : -1;
	one_part = is_number ? digits_at(one->at, one->end) : letters_at(one->at, one->end);
	two_part = is_number ? digits_at(two->at, two->end) : letters_at(two->at, two->end);
	order = is_number ? number_order(one_part, two_part) : letter_order(one_part, two_part);
	one->at = one_part.end;
	two->at = two_part.end;
	return order;
}

static int rpm_order(struct span one, struct span two)
{
	int order = 0, marks;

	while (one.at < one.end || two.at < two.end) {
		skip_separators(&one);
		skip_separators(&two);
		marks = rpm_marks(&one, &two, &order);
		if (marks == 2)
			return order;
		if (marks)
			continue;
		if (one.at == one.end || two.at == two.end)
			break;
		order = segment_order(&one, &two);
		if (order)
			return order;
	}
	return (one.at < one.end) - (two.at < two.end);
}

static struct version parsed(const unsigned char *text, uint32_t length)
{
	struct version version = { .upstream = { text, text + length } };
	const unsigned char *colon = length ? memchr(text, ':', length) : NULL;

	version.epoch.at = version.epoch.end = text;
	if (colon) {
		version.epoch.end = colon;
		version.upstream.at = colon + 1;
	}
	version.revision.at = version.revision.end = version.upstream.end;
	for (const unsigned char *at = version.upstream.end; at > version.upstream.at; at--) {
		if (at[-1] != '-')
			continue;
		version.revision.at = at;
		version.upstream.end = at - 1;
		version.has_revision = 1;
		break;
	}
	return version;
}

int mamplus_version_order(uint32_t scheme, const unsigned char *one, uint32_t one_length, const unsigned char *two, uint32_t two_length)
{
	struct version first = parsed(one, one_length), second = parsed(two, two_length);
	int is_rpm = scheme == MAMPLUS_VERSION_RPM, order;

	order = number_order(digits_at(first.epoch.at, first.epoch.end), digits_at(second.epoch.at, second.epoch.end));
	if (!order)
		order = is_rpm ? rpm_order(first.upstream, second.upstream) : deb_order(first.upstream, second.upstream);
	if (order || (is_rpm && !(first.has_revision && second.has_revision)))
		return order;
	return is_rpm ? rpm_order(first.revision, second.revision) : deb_order(first.revision, second.revision);
}
