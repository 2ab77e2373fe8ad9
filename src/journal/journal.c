/* The journal's public side: turns, group commit, reading, trimming.
 *
 *   append:  turn -> seal -> write -> written grows -> turn given up
 *   sync:    len = written; fdatasync; durable = len         (beside an append)
 *            who comes meanwhile waits, and one of them runs the next for all
 *   rotate:  turn -> fdatasync the old -> make the new -> it is the last; also where an append finds it full
 *
 * Threads: no own; any caller may do any of these.  The lock is never held across
 * I/O: the turn keeps appenders apart, `syncing` keeps two fdatasyncs apart. */
#include "journal/journal.h"

#include "base/counter.h"
#include "base/error.h"
#include "base/mem.h"
#include "base/trace.h"
#include "journal/frame.h"
#include "journal/types.h"

#include <inttypes.h>
#include <sys/uio.h>

static struct nf_segment *newest_locked(struct nf_journal *j)
{
	return nf_list_last(&j->segments, struct nf_segment, link);
}

void nf_journal_close(struct nf_journal *j)
{
	if (!j)
		return;
	nf_list_for_each_safe(s, &j->segments, struct nf_segment, link) {
		nf_list_del(&s->link);
		nf_segment_free(s, j->files);
	}
	nf_buf_deinit(&j->sealed);
	nf_cond_deinit(&j->changed);
	nf_lock_deinit(&j->lock);
	free(j->dir);
	free(j);
}

static void close_p(struct nf_journal **j) { nf_journal_close(*j); }

static int open_dir(struct nf_journal *j, const struct nf_journal_options *o)
{
	struct nf_segment *s;
	int r = nf_file_mkdirs(j->files, j->dir);

	/* Also if another run made it and was stopped before it was durable. */
	if (r == 0)
		r = nf_file_sync_name(j->files, j->dir);
	if (r == 0)
		r = nf_journal_scan(j, o);
	if (r < 0)
		return r;
	uint64_t number = nf_list_empty(&j->segments) ? 1 : newest_locked(j)->number + 1;
	r = nf_segment_make(j, number, &s);
	if (r == 0)
		nf_list_add_tail(&j->segments, &s->link);
	return r;
}

int nf_journal_new(const struct nf_journal_options *o, struct nf_journal **out)
{
	nf_auto(close_p) struct nf_journal *j = calloc(1, sizeof *j);

	if (!j)
		return nf_fail(-ENOMEM);
	nf_lock_init(&j->lock, NF_RANK_JOURNAL);
	nf_cond_init(&j->changed);
	nf_list_init(&j->segments);
	j->files = o->files;
	j->seal = o->seal;
	j->seal_ctx = o->seal_ctx;
	j->segment_bytes = o->segment_bytes ? o->segment_bytes : NF_JOURNAL_SEGMENT_BYTES;
	j->room = o->room;
	j->dir = strdup(o->dir);
	if (!j->dir)
		return nf_fail(-ENOMEM);
	*out = nf_steal(&j);
	return 0;
}

int nf_journal_open(const struct nf_journal_options *o, struct nf_journal **out)
{
	nf_auto(close_p) struct nf_journal *j = NULL;

	int r = nf_journal_new(o, &j);
	if (r == 0)
		r = open_dir(j, o);
	if (r < 0)
		return nf_fail(r);
	*out = nf_steal(&j);
	return 0;
}

/* Begins this thread's turn; it ends with turn_end().  *S is the newest segment,
 * and stays it for the turn. */
static int turn_begin(struct nf_journal *j, struct nf_segment **s)
{
	nf_lock_take(&j->lock);
	while (j->turn && j->error == 0)
		nf_cond_wait(&j->changed, &j->lock);
	int r = j->error;
	if (r == 0) {
		j->turn = true;
		*s = newest_locked(j);
	}
	nf_lock_drop(&j->lock);
	return nf_fail(r);
}

static void turn_end(struct nf_journal *j)
{
	nf_lock_take(&j->lock);
	j->turn = false;
	nf_cond_broadcast(&j->changed);
	nf_lock_drop(&j->lock);
}

static uint64_t durable_bytes(struct nf_journal *j, const struct nf_segment *s)
{
	nf_lock_take(&j->lock);
	uint64_t n = s->durable_bytes;
	nf_lock_drop(&j->lock);
	return n;
}

/* The segment, kept open until put. */
static struct nf_segment *segment_get(struct nf_journal *j, uint64_t number, uint64_t end_bytes)
{
	struct nf_segment *found = NULL;

	nf_lock_take(&j->lock);
	nf_list_for_each(s, &j->segments, struct nf_segment, link)
		if (s->number == number && end_bytes <= s->written_bytes)
			found = s;
	if (found)
		found->readers++;
	nf_lock_drop(&j->lock);
	return found;
}

void nf_segment_put(struct nf_journal *j, struct nf_segment *s)
{
	nf_lock_take(&j->lock);
	bool last = --s->readers == 0 && s->trimmed;
	nf_lock_drop(&j->lock);
	if (last)
		nf_segment_free(s, j->files);
}

/* One fdatasync of the newest segment, by this thread. */
static void sync_once_locked(struct nf_journal *j) NF_REQUIRES(j->lock)
{
	struct nf_segment *s = newest_locked(j);
	uint64_t len = s->written_bytes;

	s->readers++; /* it may be rotated and trimmed meanwhile */
	j->syncing = true;
	nf_lock_drop(&j->lock);
	int r = j->files->fdatasync(s->file);
	nf_count(NF_C_JOURNAL_SYNCS, 1);
	nf_trace(JOURNAL, "sync segment=%" PRIx64 " len=%" PRIu64 " r=%d", s->number, len, r);
	nf_lock_take(&j->lock);
	j->syncing = false;
	if (r == 0)
		s->durable_bytes = NF_MAX(s->durable_bytes, len);
	else if (j->error == 0)
		j->error = nf_fail(r);
	nf_cond_broadcast(&j->changed);
	nf_lock_drop(&j->lock);
	nf_segment_put(j, s);
	nf_lock_take(&j->lock);
}

/* Until all that is written now is durable. */
static int sync_locked(struct nf_journal *j) NF_REQUIRES(j->lock)
{
	uint64_t number = newest_locked(j)->number, want = newest_locked(j)->written_bytes;

	for (;;) {
		const struct nf_segment *s = newest_locked(j);
		if (j->error != 0)
			return j->error;
		/* A segment is synced before the next is begun. */
		if (s->number > number || s->durable_bytes >= want)
			return 0;
		if (j->syncing)
			nf_cond_wait(&j->changed, &j->lock);
		else
			sync_once_locked(j);
	}
}

static int rotate_in_turn(struct nf_journal *j, uint64_t *number)
{
	struct nf_segment *s;

	nf_lock_take(&j->lock);
	int r = sync_locked(j);
	struct nf_segment *last = newest_locked(j); /* it stays that for the turn */
	uint64_t next = last->number + 1;
	nf_lock_drop(&j->lock);
	if (r == 0)
		r = nf_segment_end(j, last);
	if (r == 0)
		r = nf_segment_make(j, next, &s);
	if (r < 0)
		return nf_fail(r);
	nf_lock_take(&j->lock);
	nf_list_add_tail(&j->segments, &s->link);
	nf_lock_drop(&j->lock);
	*number = next;
	return 0;
}

/* What LEN bytes are appended to: the newest segment, or a new one where that is full.  In the turn. */
static int segment_for(struct nf_journal *j, size_t len, struct nf_segment **s)
{
	uint64_t number;

	if ((*s)->next_frame <= 1 || (*s)->written_bytes + nf_frame_size(len) <= j->segment_bytes)
		return 0;
	int r = rotate_in_turn(j, &number);
	if (r < 0)
		return r;
	nf_lock_take(&j->lock);
	*s = newest_locked(j);
	nf_lock_drop(&j->lock);
	return 0;
}

int nf_journal_data(struct nf_journal *j, const struct iovec *iov, int nr,
		    struct nf_journal_pos *pos)
{
	struct nf_segment *s;
	struct nf_journal_pos at = { 0 };
	size_t len = 0;
	int r = turn_begin(j, &s);

	if (r < 0)
		return r;
	for (int i = 0; i < nr; i++)
		len += NF_MIN(iov[i].iov_len, NF_JOURNAL_FRAME_MAX - len);
	r = segment_for(j, len, &s);
	if (r == 0) {
		/* Only the turn's holder changes written_bytes. */
		at.segment = s->number;
		at.offset_bytes = s->written_bytes + NF_FRAME_HEADER;
		r = nf_segment_append(j, s, 'D', iov, nr, durable_bytes(j, s));
	}
	turn_end(j);
	if (r == 0)
		*pos = at;
	return r;
}

static int seal_and_append(struct nf_journal *j, struct nf_segment *s, char kind, const void *plain,
			   size_t len)
{
	uint8_t tag[NF_JOURNAL_TAG];
	struct iovec iov = { .iov_len = len + j->seal->overhead };

	j->sealed.len = 0;
	if (!nf_buf_reserve(&j->sealed, iov.iov_len + 1)) {
		j->sealed.failed = false;
		return nf_fail(-ENOMEM);
	}
	iov.iov_base = j->sealed.p;
	int r = j->seal->seal(j->seal_ctx, j->chain, s->number, s->next_frame, kind, plain, len,
			      j->sealed.p, tag);
	if (r == 0)
		r = nf_segment_append(j, s, kind, &iov, 1, durable_bytes(j, s));
	if (r == 0)
		memcpy(j->chain, tag, sizeof tag);
	return nf_fail(r);
}

int nf_journal_record(struct nf_journal *j, char kind, const void *plain, size_t len)
{
	struct nf_segment *s;

	if ((kind != 'O' && kind != 'M') || len > NF_JOURNAL_FRAME_MAX - j->seal->overhead)
		return nf_fail(-EINVAL);
	int r = turn_begin(j, &s);
	if (r < 0)
		return r;
	r = segment_for(j, len + j->seal->overhead, &s);
	if (r == 0)
		r = seal_and_append(j, s, kind, plain, len);
	turn_end(j);
	if (r == 0)
		nf_count(NF_C_JOURNAL_RECORDS, 1);
	return r;
}

int nf_journal_sync(struct nf_journal *j)
{
	nf_lock_take(&j->lock);
	int r = sync_locked(j);
	nf_lock_drop(&j->lock);
	return nf_fail(r);
}

int nf_journal_rotate(struct nf_journal *j, uint64_t *number)
{
	struct nf_segment *s;
	int r = turn_begin(j, &s);

	if (r < 0)
		return r;
	r = rotate_in_turn(j, number);
	turn_end(j);
	return r;
}

uint64_t nf_journal_newest(struct nf_journal *j)
{
	nf_lock_take(&j->lock);
	uint64_t number = newest_locked(j)->number;
	nf_lock_drop(&j->lock);
	return number;
}

int nf_journal_read(struct nf_journal *j, struct nf_journal_pos pos, void *buf, size_t len)
{
	if (len > NF_JOURNAL_FRAME_MAX || pos.offset_bytes > UINT64_MAX - len)
		return nf_fail(-EINVAL);
	struct nf_segment *s = segment_get(j, pos.segment, pos.offset_bytes + len);
	if (!s)
		return nf_fail(-EINVAL);
	int r = j->files->pread(s->file, buf, len, pos.offset_bytes, NULL);
	nf_segment_put(j, s);
	return nf_fail(r);
}

/* Takes the oldest segment off the list if it is below NUMBER and not the newest.
 * Held for reading by the caller. */
static struct nf_segment *take_oldest(struct nf_journal *j, uint64_t number)
{
	nf_lock_take(&j->lock);
	struct nf_segment *s = nf_list_first(&j->segments, struct nf_segment, link);
	bool take = s->number < number && s != newest_locked(j);
	if (take)
		s->readers++;
	nf_lock_drop(&j->lock);
	return take ? s : NULL;
}

static int trim_in_turn(struct nf_journal *j, uint64_t number)
{
	struct nf_segment *s;

	while ((s = take_oldest(j, number))) {
		int r = nf_segment_unlink(j, s->number);
		/* Each by itself: were a later one gone and an earlier one not, a
		 * number would be missing. */
		if (r == 0 || r == -ENOENT)
			r = j->files->fsync_dir(j->files, j->dir);
		if (r == 0) {
			nf_lock_take(&j->lock);
			nf_list_del(&s->link);
			s->trimmed = true;
			nf_lock_drop(&j->lock);
		}
		nf_segment_put(j, s);
		if (r < 0)
			return nf_fail(r);
	}
	return 0;
}

int nf_journal_trim(struct nf_journal *j, uint64_t number)
{
	struct nf_segment *s;
	int r = turn_begin(j, &s);

	if (r < 0)
		return r;
	r = trim_in_turn(j, number);
	turn_end(j);
	return r;
}

struct nf_segment *nf_segment_from(struct nf_journal *j, uint64_t number, uint64_t *written)
{
	struct nf_segment *found = NULL;

	nf_lock_take(&j->lock);
	nf_list_for_each(s, &j->segments, struct nf_segment, link)
		if (!found && s->number >= number)
			found = s;
	if (found) {
		found->readers++;
		*written = found->written_bytes;
	}
	nf_lock_drop(&j->lock);
	return found;
}

int nf_journal_check(struct nf_journal *j)
{
	struct nf_segment *s;
	uint64_t number = 0, written;
	int r = 0;

	while (r == 0 && (s = nf_segment_from(j, number, &written))) {
		r = nf_segment_check(s->file, written);
		number = s->number + 1;
		nf_segment_put(j, s);
	}
	return nf_fail(r);
}

uint64_t nf_journal_size(struct nf_journal *j)
{
	uint64_t size = 0;

	nf_lock_take(&j->lock);
	nf_list_for_each(s, &j->segments, struct nf_segment, link)
		size += s->written_bytes;
	nf_lock_drop(&j->lock);
	return size;
}

void nf_journal_to_text(struct nf_journal *j, struct nf_text *t)
{
	nf_lock_take(&j->lock);
	nf_textf(t, "journal turn=%d syncing=%d error=%s\n", j->turn, j->syncing,
		 j->error ? nf_error_name(j->error) : "none");
	nf_list_for_each(s, &j->segments, struct nf_segment, link)
		nf_textf(t, "segment=%016" PRIx64 " written=%" PRIu64 " durable=%" PRIu64 "\n",
			 s->number, s->written_bytes, s->durable_bytes);
	nf_lock_drop(&j->lock);
}
