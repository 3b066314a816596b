/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Says whether a text has the form of its kind, and reads the items of a path's text.
 *
 * The one spelling of a value is made, and checked, by `canonical` of entry.py; what is refused
 * here is what a reader in C could not walk through, or what no value of the kind looks like.
 */
#include <string.h>

#include "ble_file.h"
#include "value_text.h"

#define PATH_MAX_BYTES 4096
#define NAME_MAX_BYTES 256
#define USB_ID 4
#define USB_SERIAL_MAX 126

static int is_digit(unsigned char byte)
{
	return byte >= '0' && byte <= '9';
}

static int is_alnum(unsigned char byte)
{
	return is_digit(byte) || (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z');
}

static int hex_digit(unsigned char byte)
{
	if (is_digit(byte))
		return byte - '0';
	return byte >= 'a' && byte <= 'f' ? byte - 'a' + 10 : -1;
}

static int all_of(const unsigned char *text, uint32_t length, const char *more)
{
	for (uint32_t i = 0; i < length; i++)
		if (!is_alnum(text[i]) && (!text[i] || !strchr(more, text[i])))
			return 0;
	return 1;
}

static int all_digits(const unsigned char *text, uint32_t length)
{
	for (uint32_t i = 0; i < length; i++)
		if (!is_digit(text[i]))
			return 0;
	return length > 0;
}

uint32_t mamplus_character(const unsigned char *at, uint32_t left, uint32_t *size)
{
	static const uint32_t least[] = { 0, 0, 0x80, 0x800, 0x10000 };
	uint32_t bytes = at[0] < 0x80 ? 1 : at[0] >> 5 == 6 ? 2 : at[0] >> 4 == 14 ? 3 : at[0] >> 3 == 30 ? 4 : 0;
	uint32_t value = at[0];

	*size = 1;
	if (bytes == 1)
		return value;
	if (!bytes || bytes > left)
		return 0xdc00 | at[0];
	value = at[0] & (0x7f >> bytes);
	for (uint32_t i = 1; i < bytes; i++) {
		if (at[i] >> 6 != 2)
			return 0xdc00 | at[0];
		value = value << 6 | (at[i] & 0x3f);
	}
	if (value < least[bytes] || value > 0x10ffff || value >> 11 == 0x1b)
		return 0xdc00 | at[0];
	*size = bytes;
	return value;
}

/* What follows a backslash at *at. */
static enum mamplus_path_item escaped_byte(const unsigned char *text, uint32_t length, uint32_t *at, unsigned char *byte)
{
	int high, low;

	if (*at >= length)
		return MAMPLUS_PATH_BAD;
	*byte = text[(*at)++];
	if (*byte != 'x')
		return strchr("\\*?[]-!^", *byte) && *byte ? MAMPLUS_PATH_BYTE : MAMPLUS_PATH_BAD;
	if (length - *at < 2)
		return MAMPLUS_PATH_BAD;
	high = hex_digit(text[*at]);
	low = hex_digit(text[*at + 1]);
	*at += 2;
	if (high < 0 || low < 0)
		return MAMPLUS_PATH_BAD;
	*byte = (unsigned char)(high << 4 | low);
	return *byte ? MAMPLUS_PATH_BYTE : MAMPLUS_PATH_BAD;
}

static enum mamplus_path_item plain_byte(unsigned char seen, unsigned char *byte)
{
	*byte = seen;
	return seen < 0x20 || seen == 0x7f ? MAMPLUS_PATH_BAD : MAMPLUS_PATH_BYTE;
}

enum mamplus_path_item mamplus_path_in_class(const unsigned char *text, uint32_t length, uint32_t *at, unsigned char *byte, int *escaped)
{
	*escaped = 0;
	if (*at >= length)
		return MAMPLUS_PATH_BAD;
	if (text[*at] == ']') {
		(*at)++;
		return MAMPLUS_PATH_END;
	}
	if (text[*at] == '\\') {
		*escaped = 1;
		(*at)++;
		return escaped_byte(text, length, at, byte);
	}
	return plain_byte(text[(*at)++], byte);
}

static enum mamplus_path_item class_end(const unsigned char *text, uint32_t length, uint32_t *at)
{
	enum mamplus_path_item item;
	uint32_t items = 0;
	unsigned char byte;
	int escaped;

	if (*at < length && text[*at] == MAMPLUS_CLASS_NOT)
		(*at)++;
	for (;; items++) {
		item = mamplus_path_in_class(text, length, at, &byte, &escaped);
		if (item != MAMPLUS_PATH_BYTE)
			return item == MAMPLUS_PATH_END && items ? MAMPLUS_PATH_CLASS : MAMPLUS_PATH_BAD;
	}
}

enum mamplus_path_item mamplus_path_next(const unsigned char *text, uint32_t length, uint32_t *at, unsigned char *byte)
{
	unsigned char seen;
	uint32_t first = *at;

	if (*at >= length)
		return MAMPLUS_PATH_END;
	seen = text[(*at)++];
	switch (seen) {
	case '\\':
		return escaped_byte(text, length, at, byte);
	case '?':
		return MAMPLUS_PATH_ANY;
	case '[':
		return class_end(text, length, at);
	case '*':
		while (*at < length && text[*at] == '*')
			(*at)++;
		return *at - first == 1 ? MAMPLUS_PATH_STAR : MAMPLUS_PATH_STARS;
	default:
		return plain_byte(seen, byte);
	}
}

/* Absolute, readable to its end, and more than wildcards: `/` followed by `**` would name every program. */
static int is_path(const unsigned char *text, uint32_t length)
{
	enum mamplus_path_item item;
	uint32_t at = 0, named = 0;
	unsigned char byte = 0;

	if (length < 2 || length > PATH_MAX_BYTES || text[0] != '/')
		return 0;
	while ((item = mamplus_path_next(text, length, &at, &byte)) != MAMPLUS_PATH_END) {
		if (item == MAMPLUS_PATH_BAD)
			return 0;
		named += item == MAMPLUS_PATH_BYTE && byte != '/';
	}
	return named > 0;
}

static int is_operator(unsigned char byte)
{
	return byte == '<' || byte == '>' || byte == '=';
}

uint32_t mamplus_package_name(const unsigned char *text, uint32_t length)
{
	uint32_t at = 0;

	while (at < length && !is_operator(text[at]))
		at++;
	return at;
}

static int is_version(const unsigned char *text, uint32_t length)
{
	return length && is_alnum(text[0]) && all_of(text, length, ".+-_~^:");
}

/* `=1.0`, `<1.0`, `>=1.0,<2.0`: one comparison, or a lower and an upper one. */
static int is_range(const unsigned char *text, uint32_t length)
{
	const unsigned char *comma = memchr(text, ',', length);
	uint32_t first = comma ? (uint32_t)(comma - text) : length;
	uint32_t operator = first > 1 && text[0] != '=' && text[1] == '=' ? 2 : 1;

	if (!first || !is_operator(text[0]) || !is_version(text + operator, first - operator))
		return 0;
	if (!comma)
		return 1;
	return text[0] == '>' && length > first + 1 && comma[1] == '<' && !memchr(comma + 1, ',', length - first - 1) &&
	       is_range(comma + 1, length - first - 1);
}

static int is_package(const unsigned char *text, uint32_t length)
{
	uint32_t name = mamplus_package_name(text, length);

	if (name <= 4 || name > NAME_MAX_BYTES || (memcmp(text, "deb:", 4) && memcmp(text, "rpm:", 4)))
		return 0;
	if (!all_of(text + 4, name - 4, ".+-_"))
		return 0;
	return name == length || is_range(text + name, length - name);
}

/* A name of the account database, or `uid:N` or `gid:N`. */
static int is_account(const unsigned char *text, uint32_t length, const char *by_number)
{
	if (!length || length > NAME_MAX_BYTES)
		return 0;
	if (length > 4 && !memcmp(text, by_number, 4))
		return length <= 14 && all_digits(text + 4, length - 4);
	return (is_alnum(text[0]) || text[0] == '_') && all_of(text, length, "_.-@+\\$") && !all_digits(text, length);
}

static int is_usb_id(const unsigned char *text)
{
	for (uint32_t i = 0; i < USB_ID; i++)
		if (hex_digit(text[i]) < 0)
			return 0;
	return 1;
}

static int is_serial(const unsigned char *text, uint32_t length)
{
	unsigned char byte;
	uint32_t at = 0, count = 0;

	for (; at < length; count++)
		if (mamplus_path_next(text, length, &at, &byte) != MAMPLUS_PATH_BYTE)
			return 0;
	return count && count <= USB_SERIAL_MAX * 4;
}

/* `0781:5581`, `0781:*`, and either with `:SERIAL`. */
static int is_usb(const unsigned char *text, uint32_t length)
{
	uint32_t at = USB_ID + 1;

	if (length < at + 1 || !is_usb_id(text) || text[USB_ID] != ':')
		return 0;
	if (text[at] == '*')
		at++;
	else if (length >= at + USB_ID && is_usb_id(text + at))
		at += USB_ID;
	else
		return 0;
	return at == length || (text[at] == ':' && is_serial(text + at + 1, length - at - 1));
}

static int is_rule(const unsigned char *text, uint32_t length)
{
	return length && !memchr(text, 0, length) && !memchr(text, '\r', length);
}

int mamplus_text_fits(uint16_t section, const unsigned char *text, uint32_t length)
{
	switch (section) {
	case MAMPLUS_BLE_PATH: return is_path(text, length);
	case MAMPLUS_BLE_PACKAGE: return is_package(text, length);
	case MAMPLUS_BLE_USER: return is_account(text, length, "uid:");
	case MAMPLUS_BLE_GROUP: return is_account(text, length, "gid:");
	case MAMPLUS_BLE_USB: return is_usb(text, length);
	case MAMPLUS_BLE_YARA:
	case MAMPLUS_BLE_SIGMA: return is_rule(text, length);
	default: return 0;
	}
}
