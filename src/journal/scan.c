/* What open finds on disk.
 *
 *   segment n-1               segment n (the last)
 *   S O D D O M               S D O D D x.......
 *   valid to the end,         valid end ^         cut off, if nothing in it
 *   or damaged                                    claims that x was durable
 *
 * First every segment is measured, and damage found; then all is replayed; only
 * then the tail is cut.  One thread: nobody else has the journal yet.
 *
 * The last is the last that has a frame.  One without may be what is left of an attempt to begin it that
 * found no room: the one before was written to again. */
#include "base/error.h"
#include "base/mem.h"
#include "journal/frame.h"
#include "journal/types.h"

#include <fcntl.h>
#include <inttypes.h>

enum { LOOK_BYTES = 64 << 10 };

struct scan {
	struct nf_journal *j;
	const struct nf_journal_options *o;
	struct nf_buf payload; /* of the frame read last, unless D */
	struct nf_buf plain;
	uint8_t chain[NF_JOURNAL_TAG]; /* tag of the last O or M frame, */
	bool chained;                  /* once it is known */
	uint64_t durable_bytes;        /* of the segment at hand, for `replay` */
};

/* Room for LEN bytes at B->p, old content not kept. */
static int room_for(struct nf_buf *b, size_t len)
{
	b->len = 0;
	return nf_buf_reserve(b, len + 1) ? 0 : nf_fail(-ENOMEM);
}

/* Positive: no valid frame at this place. */
enum { NO_FRAME = 1 };

static int read_at(struct nf_file *f, void *buf, size_t len, uint64_t at)
{
	int r = f->ops->pread(f, buf, len, at, NULL);

	return r == -NF_E_XFORM_TRUNCATED ? NO_FRAME : nf_fail(r);
}

static int read_frame(struct scan *sc, struct nf_file *file, uint64_t at, uint64_t size,
		      struct nf_frame *f)
{
	uint8_t head[NF_FRAME_HEADER];

	if (size < at || size - at < NF_FRAME_HEADER)
		return NO_FRAME;
	int r = read_at(file, head, sizeof head, at);
	if (r != 0)
		return r;
	if (!nf_frame_decode(head, f) || nf_frame_size(f->len_bytes) > size - at)
		return NO_FRAME;
	if (f->kind == 'D')
		return nf_frame_check(head, f, NULL) ? 0 : NO_FRAME;
	r = room_for(&sc->payload, f->len_bytes);
	if (r == 0)
		r = read_at(file, sc->payload.p, f->len_bytes, at + NF_FRAME_HEADER);
	if (r != 0)
		return r;
	return nf_frame_check(head, f, sc->payload.p) ? 0 : NO_FRAME;
}

static bool fits(const struct nf_frame *f, uint64_t number)
{
	if (f->number != number || (f->kind == 'S') != (number == 0))
		return false;
	return f->kind != 'S' || f->len_bytes == NF_JOURNAL_TAG;
}

/* Looks at one place behind the valid part for a frame that knew it to be longer. */
static int look_at(struct scan *sc, const struct nf_segment *s, uint64_t at, uint64_t size)
{
	struct nf_frame f;
	int r = read_frame(sc, s->file, at, size, &f);

	if (r == 0 && f.number >= s->next_frame && f.synced_bytes > s->written_bytes)
		return nf_fail(-NF_E_JOURNAL_BAD);
	return r < 0 ? r : 0;
}

static int look_for_damage(struct scan *sc, const struct nf_segment *s, uint64_t size)
{
	nf_auto_free uint8_t *piece = malloc(LOOK_BYTES);
	int r = piece ? 0 : nf_fail(-ENOMEM);

	for (uint64_t at = s->written_bytes; at < size && r == 0; at += LOOK_BYTES) {
		size_t len = (size_t)NF_MIN(size - at, (uint64_t)LOOK_BYTES);
		r = s->file->ops->pread(s->file, piece, len, at, NULL);
		for (size_t i = 0; i + 3 <= len && r == 0; i += NF_FRAME_ALIGN)
			if (memcmp(piece + i, "FJ1", 3) == 0)
				r = look_at(sc, s, at + i, size);
	}
	return nf_fail(r);
}

/* Finds the valid part of S, and how much of it its frames say is durable. */
static int measure(struct scan *sc, struct nf_segment *s)
{
	struct nf_frame f;
	uint64_t size;
	int r = s->file->ops->size(s->file, &size);

	while (r == 0) {
		r = read_frame(sc, s->file, s->written_bytes, size, &f);
		if (r == 0 && !fits(&f, s->next_frame))
			r = NO_FRAME;
		if (r != 0)
			break;
		s->written_bytes += nf_frame_size(f.len_bytes);
		s->next_frame++;
		s->durable_bytes = NF_MAX(s->durable_bytes, f.synced_bytes);
	}
	s->durable_bytes = NF_MIN(s->durable_bytes, s->written_bytes);
	return r < 0 ? nf_fail(r) : look_for_damage(sc, s, size);
}

/* S was synced before the next was begun. */
static int ended(struct nf_segment *s)
{
	uint64_t size;
	int r = s->file->ops->size(s->file, &size);

	if (r == 0 && size != s->written_bytes)
		r = -NF_E_JOURNAL_BAD;
	s->durable_bytes = s->written_bytes;
	return nf_fail(r);
}

int nf_segment_check(struct nf_file *file, uint64_t written_bytes)
{
	struct scan sc = { 0 };
	struct nf_frame f = { 0 };
	uint64_t at = 0, number = 0;
	int r = 0;

	while (r == 0 && at < written_bytes) {
		r = read_frame(&sc, file, at, written_bytes, &f);
		if (r == NO_FRAME || (r == 0 && !fits(&f, number++)))
			r = nf_fail(-NF_E_JOURNAL_BAD);
		at += nf_frame_size(f.len_bytes);
	}
	nf_buf_deinit(&sc.payload);
	return r;
}

static int start_chain(struct scan *sc)
{
	if (sc->chained && memcmp(sc->chain, sc->payload.p, NF_JOURNAL_TAG) != 0)
		return nf_fail(-NF_E_JOURNAL_BAD);
	memcpy(sc->chain, sc->payload.p, NF_JOURNAL_TAG);
	sc->chained = true;
	return 0;
}

static int replay_record(struct scan *sc, const struct nf_segment *s, const struct nf_frame *f)
{
	struct nf_journal *j = sc->j;
	uint8_t tag[NF_JOURNAL_TAG];
	size_t len;

	if (f->len_bytes < j->seal->overhead)
		return nf_fail(-NF_E_JOURNAL_BAD);
	int r = room_for(&sc->plain, f->len_bytes);
	if (r < 0)
		return r;
	r = j->seal->open(j->seal_ctx, sc->chain, s->number, f->number, f->kind, sc->payload.p,
			  f->len_bytes, sc->plain.p, &len, tag);
	if (r < 0)
		return nf_fail(r == -NF_E_XFORM_BAD_TAG ? -NF_E_JOURNAL_BAD : r);
	r = sc->o->replay(sc->o->replay_ctx, j, s->number, f->kind, sc->plain.p, len,
			  sc->durable_bytes);
	if (r == 0)
		memcpy(sc->chain, tag, sizeof tag);
	return r;
}

/* The frames up to END_BYTES.  NF_JOURNAL_CUT: those up to *AT, *NR of them, are valid. */
static int replay_segment(struct scan *sc, const struct nf_segment *s, uint64_t end_bytes, uint64_t *at, uint64_t *nr)
{
	struct nf_frame f;

	for (*at = *nr = 0; *at < end_bytes; ++*nr) {
		int r = read_frame(sc, s->file, *at, end_bytes, &f);
		if (r == 0 && f.kind == 'S')
			r = start_chain(sc);
		else if (r == 0 && f.kind != 'D')
			r = replay_record(sc, s, &f);
		else if (r > 0)
			r = nf_fail(-EIO); /* it was there a moment ago */
		if (r)
			return r < 0 ? nf_fail(r) : r;
		*at += nf_frame_size(f.len_bytes);
	}
	return 0;
}

static int cut_tail(struct nf_segment *s)
{
	int r = s->file->ops->ftruncate(s->file, s->written_bytes);

	/* Also what a daemon that was killed had not synced is durable from here on. */
	if (r == 0)
		r = s->file->ops->fdatasync(s->file);
	s->durable_bytes = s->written_bytes;
	return nf_fail(r);
}

static int compare_numbers(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

bool nf_segment_number(const char *name, uint64_t *number)
{
	uint64_t n = 0;

	if (strlen(name) != 20 || strcmp(name + 16, ".seg") != 0)
		return false;
	for (int i = 0; i < 16; i++) {
		const char *digits = "0123456789abcdef", *d = strchr(digits, name[i]);
		if (!d)
			return false;
		n = n << 4 | (uint64_t)(d - digits);
	}
	*number = n;
	return true;
}

static int open_segments(struct nf_journal *j, const uint64_t *numbers, size_t nr)
{
	struct nf_segment *s;

	for (size_t i = 0; i < nr; i++) {
		if (i > 0 && numbers[i] != numbers[i - 1] + 1)
			return nf_fail(-NF_E_JOURNAL_BAD);
		int r = nf_segment_open(j, numbers[i], O_RDWR, &s);
		if (r < 0)
			return nf_fail(r);
		nf_list_add_tail(&j->segments, &s->link);
	}
	return 0;
}

static int list_segments(struct nf_journal *j)
{
	struct nf_file_dirent *list;
	size_t nr_list, nr = 0;
	int r = j->files->list(j->files, j->dir, &list, &nr_list);

	if (r < 0)
		return nf_fail(r);
	nf_auto_free uint64_t *numbers = calloc(nr_list + 1, sizeof *numbers);
	for (size_t i = 0; numbers && i < nr_list; i++)
		nr += nf_segment_number(list[i].name, &numbers[nr]);
	nf_file_list_free(list, nr_list);
	if (!numbers)
		return nf_fail(-ENOMEM);
	qsort(numbers, nr, sizeof *numbers, compare_numbers);
	return open_segments(j, numbers, nr);
}

static int scan_all(struct scan *sc)
{
	struct nf_list *head = &sc->j->segments;
	const struct nf_segment *last = NULL;
	int r = 0;

	nf_list_for_each(s, head, struct nf_segment, link) {
		r = measure(sc, s);
		if (r < 0)
			return r;
		if (s->next_frame > 0)
			last = s;
	}
	bool behind = false; /* the last one */
	nf_list_for_each(s, head, struct nf_segment, link) {
		r = last && s != last && !behind ? ended(s) : 0;
		behind |= s == last;
		uint64_t at, nr;
		sc->durable_bytes = s->durable_bytes;
		if (r == 0)
			r = replay_segment(sc, s, s->written_bytes, &at, &nr);
		if (r == NF_JOURNAL_CUT && s != last)
			r = nf_fail(-NF_E_JOURNAL_BAD);
		if (r == NF_JOURNAL_CUT) {
			s->written_bytes = at;
			s->next_frame = nr;
		}
		if (r < 0)
			return r;
	}
	r = 0;
	behind = !last;
	nf_list_for_each(s, head, struct nf_segment, link) {
		behind |= s == last;
		if (r == 0 && behind)
			r = cut_tail(s);
	}
	return r;
}

static void scan_deinit(struct scan *sc)
{
	nf_buf_deinit(&sc->payload);
	if (sc->plain.p)
		nf_wipe(sc->plain.p, sc->plain.cap);
	nf_buf_deinit(&sc->plain);
}

int nf_journal_scan(struct nf_journal *j, const struct nf_journal_options *o)
{
	struct scan sc = { .j = j, .o = o };
	int r = list_segments(j);

	if (r == 0)
		r = scan_all(&sc);
	memcpy(j->chain, sc.chain, sizeof j->chain);
	scan_deinit(&sc);
	return nf_fail(r);
}

/* What of S is valid, where damage may be. *BAD: something is not. */
static int replay_to_damage(struct scan *sc, struct nf_segment *s, bool may_be_torn, bool *bad)
{
	uint64_t at, nr;

	int r = replay_segment(sc, s, s->written_bytes, &at, &nr);
	if (r == NF_JOURNAL_CUT && may_be_torn && !*bad)
		return 0;
	if (r != NF_JOURNAL_CUT && r != -NF_E_JOURNAL_BAD)
		return r;
	s->written_bytes = at;
	s->next_frame = nr;
	*bad = true;
	return 0;
}

static int first_damage(struct scan *sc, struct nf_segment **first)
{
	struct nf_list *head = &sc->j->segments;
	const struct nf_segment *last = NULL;
	bool behind = false; /* the last one */
	int r = 0;

	*first = NULL;
	nf_list_for_each(s, head, struct nf_segment, link) {
		r = measure(sc, s);
		if (r < 0 && r != -NF_E_JOURNAL_BAD)
			return r;
		s->torn = r < 0; /* not as a writer means it: nobody writes to these */
		if (s->next_frame > 0)
			last = s;
	}
	nf_list_for_each(s, head, struct nf_segment, link) {
		bool bad = s->torn, whole = last && s != last && !behind;
		sc->durable_bytes = s->durable_bytes;
		r = whole ? ended(s) : 0;
		bad |= r == -NF_E_JOURNAL_BAD;
		if (r == 0 && whole)
			sc->durable_bytes = s->durable_bytes;
		behind |= s == last;
		r = r == 0 || r == -NF_E_JOURNAL_BAD ? replay_to_damage(sc, s, s == last, &bad) : r;
		if (r < 0)
			return r;
		if (bad) {
			*first = s;
			return 0;
		}
	}
	return 0;
}

int nf_journal_find_damage(struct nf_journal *j, const struct nf_journal_options *o, struct nf_segment **first, bool *gap)
{
	struct scan sc = { .j = j, .o = o };
	int r = list_segments(j);

	*gap = r == -NF_E_JOURNAL_BAD; /* the list has those before it */
	if (r == 0 || *gap)
		r = first_damage(&sc, first);
	scan_deinit(&sc);
	return nf_fail(r);
}

int nf_journal_walk(struct nf_journal *j, nf_journal_replay_fn *replay, void *ctx)
{
	struct nf_journal_options o = { .replay = replay, .replay_ctx = ctx };
	struct scan sc = { .j = j, .o = &o, .durable_bytes = UINT64_MAX };
	struct nf_segment *s;
	uint64_t number = 0, written, at, nr;
	int r = 0;

	while (r == 0 && (s = nf_segment_from(j, number, &written))) {
		r = replay_segment(&sc, s, written, &at, &nr);
		number = s->number + 1;
		nf_segment_put(j, s);
	}
	scan_deinit(&sc);
	return nf_fail(r);
}
