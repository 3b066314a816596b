/* SPDX-License-Identifier: Apache-2.0 */
/* Writes the file that a plan describes, column by column: ble_plan.h. */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "ble_layout.h"

#define MAGIC "MAMPBLE"
#define VERSION 2
#define BUFFER (1U << 16)
#define CHUNK (1U << 20)		/* entries after which pages are given back */
#define STREAMS (2 + BLE_COLUMNS)
#define NO_ROOM (-2)

/* Bytes on their way to a place in the file. */
struct stream {
	int fd;
	uint64_t at;
	uint32_t used;
	int errno_;			/* of the first write that failed */
	unsigned char buffer[BUFFER];
};

static void flush(struct stream *stream)
{
	for (uint32_t done = 0; done < stream->used && !stream->errno_;) {
		ssize_t size = pwrite(stream->fd, stream->buffer + done, stream->used - done, (off_t)(stream->at + done));

		if (size <= 0 && errno != EINTR)
			stream->errno_ = size ? errno : ENOSPC;
		done += size > 0 ? (uint32_t)size : 0;
	}
	stream->at += stream->used;
	stream->used = 0;
}

static void put(struct stream *stream, const void *data, uint64_t size)
{
	const unsigned char *from = data;

	while (size) {
		uint32_t part = size < BUFFER - stream->used ? (uint32_t)size : BUFFER - stream->used;

		memcpy(stream->buffer + stream->used, from, part);
		stream->used += part;
		from += part;
		size -= part;
		if (stream->used == BUFFER)
			flush(stream);
	}
}

static void put_zeros(struct stream *stream, uint64_t size)
{
	static const unsigned char zeros[64];

	for (; size > sizeof(zeros); size -= sizeof(zeros))
		put(stream, zeros, sizeof(zeros));
	put(stream, zeros, size);
}

static void put32(struct stream *stream, uint32_t value)
{
	value = htole32(value);
	put(stream, &value, sizeof(value));
}

static void put64(struct stream *stream, uint64_t value)
{
	value = htole64(value);
	put(stream, &value, sizeof(value));
}

static void put_remarks(struct writer *writer, struct stream *strings, uint32_t *next, uint32_t end)
{
	for (; *next < end; ++*next) {
		uint32_t length;
		const unsigned char *text = ble_remark(writer, &writer->remarks[*next], &length);

		put(strings, text - 2, (uint64_t)length + 2);
	}
}

static void put_texts(const struct ble_part *part, const struct mamplus_ble_view *view, const struct ble_run *run, struct stream *texts, struct stream *strings, uint64_t strings_begin)
{
	struct ble_entry entry;

	for (uint32_t i = run->first; i < run->first + run->count; i++) {
		/* Measured before: the text is there. */
		if (ble_entry_at(part->data, &part->file, view, i, &entry))
			continue;
		put32(texts, (uint32_t)(strings->at + strings->used - strings_begin));
		put(strings, entry.text - 2, (uint64_t)entry.text_length + 2);
	}
}

static void put_run(struct writer *writer, struct stream *columns, struct stream *strings, uint64_t strings_begin, const struct mamplus_ble_view *view, const struct ble_run *run)
{
	const struct ble_part *part = &writer->plan->parts[run->part];

	put(&columns[0], ble_key(part->data, view, run->first), (uint64_t)run->count * view->key_size);
	for (uint32_t i = run->first; i < run->first + run->count; i++)
		put32(&columns[1], run->is_withdrawn ? writer->withdrawn :
		      writer->numbers[run->part][get32(part->data + view->groups + (uint64_t)i * 4)]);
	if (run->is_withdrawn) {
		put_zeros(&columns[2], (uint64_t)run->count * 8);
		put_zeros(&columns[3], (uint64_t)run->count * 4);
	} else {
		put(&columns[2], part->data + view->ids + (uint64_t)run->first * 8, (uint64_t)run->count * 8);
		put(&columns[3], part->data + view->ends + (uint64_t)run->first * 4, (uint64_t)run->count * 4);
	}
	if (view->texts)
		put_texts(part, view, run, &columns[4], strings, strings_begin);
	ble_give_back_entries(part, view, run->first, (uint64_t)run->first + run->count);
}

static int put_section(struct writer *writer, struct stream *columns, struct stream *strings, uint64_t strings_begin, uint32_t section)
{
	const struct ble_runs *runs = &writer->plan->runs[section];
	const struct layout *layout = &writer->layout[section];
	int failed = 0;

	for (uint32_t i = 0; i < BLE_COLUMNS; i++)
		columns[i].at = layout->at[i];
	for (size_t i = 0; i < runs->count; i++) {
		struct ble_run run = runs->run[i];

		for (uint32_t left = run.count; left; left -= run.count, run.first += run.count) {
			run.count = left < CHUNK ? left : CHUNK;
			put_run(writer, columns, strings, strings_begin, ble_run_view(writer, section, &run), &run);
		}
	}
	for (uint32_t i = 0; i < BLE_COLUMNS; i++) {
		put_zeros(&columns[i], -(columns[i].at + columns[i].used) & 7);
		flush(&columns[i]);
		failed = failed ? failed : columns[i].errno_;
	}
	return failed;
}

static void put_header(const struct writer *writer, struct stream *out, uint64_t groups)
{
	const struct mamplus_ble_file *about = &writer->plan->about->file;
	uint64_t strings = groups + (uint64_t)writer->group_count * MAMPLUS_BLE_GROUP_SIZE;

	put(out, MAGIC, 8);
	put32(out, VERSION);
	put32(out, writer->plan->flags);
	put64(out, about->number);
	put64(out, about->created_s);
	put32(out, (uint32_t)writer->entries);
	put32(out, writer->sections);
	put64(out, groups);
	put32(out, writer->group_count);
	put32(out, writer->audience);
	put64(out, strings);
	put64(out, writer->strings_size);
	put64(out, writer->plan->before);
	put(out, about->root, sizeof(about->root));
	put32(out, about->total);
	put_zeros(out, 12);
}

static void put_directory(const struct writer *writer, struct stream *out)
{
	for (uint32_t section = 1; section <= MAMPLUS_BLE_SECTIONS; section++) {
		const struct layout *layout = &writer->layout[section];
		uint16_t head[2] = { htole16((uint16_t)section), 0 };

		if (!layout->count)
			continue;
		head[1] = htole16(ble_run_view(writer, section, writer->plan->runs[section].run)->key_size);
		put(out, head, sizeof(head));
		put32(out, layout->count);
		for (uint32_t i = 0; i < BLE_COLUMNS; i++)
			put64(out, layout->at[i]);
	}
}

static int put_all(struct writer *writer, struct stream *streams)
{
	struct stream *out = streams, *strings = streams + 1, *columns = streams + 2;
	uint64_t groups = writer->layout[MAMPLUS_BLE_SECTIONS].next;
	uint64_t strings_begin = groups + (uint64_t)writer->group_count * MAMPLUS_BLE_GROUP_SIZE;
	uint32_t remarks = 0;
	int failed = 0;

	put_header(writer, out, groups);
	put_directory(writer, out);
	flush(out);
	out->at = groups;
	put(out, writer->groups, (uint64_t)writer->group_count * MAMPLUS_BLE_GROUP_SIZE);
	flush(out);
	strings->at = strings_begin;
	put_zeros(strings, 2);
	for (uint32_t section = 1; section <= MAMPLUS_BLE_SECTIONS && !failed; section++) {
		put_remarks(writer, strings, &remarks, writer->layout[section].remarks_end);
		if (writer->layout[section].count)
			failed = put_section(writer, columns, strings, strings_begin, section);
	}
	flush(strings);
	failed = failed ? failed : out->errno_ ? out->errno_ : strings->errno_;
	errno = failed;
	return failed ? NO_ROOM : 0;
}

int ble_plan_write(const struct ble_plan *plan, int fd, struct mamplus_ble_fault *fault)
{
	struct writer writer = { .plan = plan, .fault = fault };
	struct stream *streams = calloc(STREAMS, sizeof(*streams));
	int result = streams ? ble_lay_out(&writer) : ble_fail(fault, "memory", 0, 0);

	if (!result && !(plan->flags & MAMPLUS_BLE_DELTA) && writer.entries != plan->about->file.total)
		result = ble_fail(fault, "number of entries", 0, 0);
	for (uint32_t i = 0; streams && i < STREAMS; i++)
		streams[i].fd = fd;
	if (!result)
		result = put_all(&writer, streams);
	ble_layout_free(&writer);
	free(streams);
	return result;
}
