/* What is behind the first damage of a journal, put aside.
 *
 *      DIR     n-1   n: S O D D O x O ...   n+1          before
 *      DIR     n-1   n: S O D D O                        after: opens
 *      ASIDE         n: S O D D O x O ...   n+1
 *
 * Operations count in their order only (what one means depends on those before it), so those behind a damaged one do not,
 * but they may be all that is left of somebody's work: they are kept as they are. */
#include "base/error.h"
#include "base/mem.h"
#include "base/trace.h"
#include "journal/types.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>

enum { COPY_BYTES = 1 << 20 };

static char *path_in(const char *dir, uint64_t number)
{
	char *path;

	return asprintf(&path, "%s/%016" PRIx64 ".seg", dir, number) < 0 ? NULL : path;
}

/* All of S's file, durably. */
static int copy_segment(const struct nf_journal *j, const struct nf_segment *s, const char *aside, uint64_t *size)
{
	nf_auto_free char *path = path_in(aside, s->number);
	nf_auto_free void *piece = malloc(COPY_BYTES);
	struct nf_file *to;

	if (!path || !piece)
		return nf_fail(-ENOMEM);
	int r = s->file->ops->size(s->file, size);
	if (r == 0)
		r = j->files->open(j->files, path, O_RDWR | O_CREAT | O_TRUNC, 0600, &to);
	if (r < 0)
		return nf_fail(r);
	for (uint64_t at = 0; r == 0 && at < *size; at += COPY_BYTES) {
		size_t len = (size_t)NF_MIN(*size - at, (uint64_t)COPY_BYTES);
		r = s->file->ops->pread(s->file, piece, len, at, NULL);
		if (r == 0)
			r = to->ops->pwrite(to, piece, len, at);
	}
	if (r == 0)
		r = to->ops->fdatasync(to);
	j->files->close(to);
	return nf_fail(r);
}

/* Segments from FROM on; the newest first, so that what a crash leaves is damaged where it was. */
static int move_from(const struct nf_journal *j, uint64_t from, const char *aside, uint64_t *bytes)
{
	int r;

	do {
		struct nf_file_dirent *list;
		uint64_t newest = 0, number, size;
		size_t nr;
		r = j->files->list(j->files, j->dir, &list, &nr);
		if (r < 0)
			return nf_fail(r);
		for (size_t i = 0; i < nr; i++)
			if (nf_segment_number(list[i].name, &number))
				newest = NF_MAX(newest, number);
		nf_file_list_free(list, nr);
		if (newest < from || newest == 0)
			return 0;
		nf_auto_free char *old = path_in(j->dir, newest), *now = path_in(aside, newest);
		r = old && now ? j->files->stat(j->files, old, &size, NULL, NULL) : -ENOMEM;
		if (r == 0)
			r = j->files->rename(j->files, old, now);
		if (r == 0)
			*bytes += size;
	} while (r == 0);
	return nf_fail(r);
}

static int put_aside(struct nf_journal *j, struct nf_segment *first, const char *aside, struct nf_journal_salvaged *out)
{
	struct nf_segment *kept = first ? first : nf_list_empty(&j->segments) ? NULL : nf_list_last(&j->segments, struct nf_segment, link);
	uint64_t size = 0;

	int r = nf_file_mkdirs(j->files, aside);
	if (r == 0)
		r = nf_file_sync_name(j->files, aside);
	if (r == 0 && first)
		r = copy_segment(j, first, aside, &size);
	if (r == 0)
		r = move_from(j, kept ? kept->number + 1 : 1, aside, &out->aside_bytes);
	if (r == 0)
		r = j->files->fsync_dir(j->files, aside);
	if (r == 0 && first)
		r = first->file->ops->ftruncate(first->file, first->written_bytes);
	if (r == 0 && first)
		r = first->file->ops->fdatasync(first->file);
	if (r == 0)
		r = j->files->fsync_dir(j->files, j->dir);
	if (r == 0 && first)
		out->aside_bytes += size - first->written_bytes;
	return nf_fail(r);
}

int nf_journal_salvage(const struct nf_journal_options *o, const char *aside, struct nf_journal_salvaged *out)
{
	struct nf_journal_salvaged got = { 0 };
	struct nf_segment *first = NULL;
	struct nf_journal *j;
	bool gap;

	int r = nf_journal_new(o, &j);
	if (r < 0)
		return r;
	r = nf_journal_find_damage(j, o, &first, &gap);
	if (r == 0 && (first || gap))
		r = put_aside(j, first, aside, &got);
	nf_list_for_each(s, &j->segments, struct nf_segment, link) {
		got.kept_bytes += s->written_bytes;
		if (s == first)
			break;
	}
	nf_trace(JOURNAL, "salvage kept=%" PRIu64 " aside=%" PRIu64 " r=%d", got.kept_bytes, got.aside_bytes, r);
	nf_journal_close(j);
	if (r == 0)
		*out = got;
	return r;
}
