/* Reading: nf_read(), nf_read_end(), nf_peek(), nf_prefetch(), read-ahead.
 *
 *   all bytes in memory or known zeros -> the folios are pinned and handed out (a hit)
 *   else -> requests for what is missing; the reader waits and looks again when one ends
 *
 * Waiting readers hold no pins, so they cannot keep memory from one another; what they may do is take it from one another
 * again and again: read_own.c. */
#include "netfs/types.h"

#include "base/assert.h"
#include "base/counter.h"
#include "base/error.h"
#include "base/mem.h"

enum {
	ZEROS_BYTES = 256 << 10,
	AHEAD_FIRST_BYTES = 128 << 10,
	AHEAD_STEP_SHARE = 8, /* of the window: what is added at once, in requests that one range of a store can answer */
	AHEAD_NEAR_BYTES = 1 << 20, /* requests of one sequential reader may come out of order by this */
	PIECES_MAX = NF_READ_MAX_BYTES / NF_PC_PAGE_BYTES * 4,
};

static const uint8_t zeros[ZEROS_BYTES];

/* --- hits --------------------------------------------------------------------------------- */

/* Pins and iovecs go together: one pin for each folio that an iovec touches. */
static void unpin_iov(struct nf_ictx_priv *p, const struct iovec *iov, int nr, bool cold)
{
	for (int i = 0; i < nr; i++) {
		uint8_t *at = iov[i].iov_base, *end = at + iov[i].iov_len;
		struct nf_folio *f;
		while (at < end && (f = nf_memory_owner(p->lib->mem, at))) {
			uint8_t *f_end = f->mem + nf_folio_bytes(f);
			if (cold && end >= f_end)
				nf_folio_set_cold(f);
			if (nf_folio_unpin_reader(f))
				nf_kick_later(p);
			at = f_end;
		}
	}
}

struct hit {
	struct iovec *iov;
	int nr;
	int max;
	const struct nf_io *io; /* whose own buffer counts; NULL: nobody's */
	bool last_own;          /* the last iovec is in that buffer */
};

static bool add_memory(struct hit *h, struct nf_folio *f, uint64_t start, uint64_t end)
{
	uint8_t *mem = f->mem + (start - f->pos_bytes);
	struct iovec *last = h->nr ? &h->iov[h->nr - 1] : NULL;

	if (last && !h->last_own && (uint8_t *)last->iov_base + last->iov_len == mem) {
		/* Its last byte is in F already, unless F begins here. */
		if (mem == f->mem)
			nf_folio_pin_reader(f);
		last->iov_len += (size_t)(end - start);
		return true;
	}
	if (h->nr == h->max)
		return false;
	nf_folio_pin_reader(f);
	h->iov[h->nr++] = (struct iovec){ .iov_base = mem, .iov_len = (size_t)(end - start) };
	h->last_own = false;
	return true;
}

static bool add_zeros(struct hit *h, uint64_t len)
{
	while (len) {
		size_t n = NF_MIN((size_t)len, sizeof zeros);
		if (h->nr == h->max)
			return false;
		h->iov[h->nr++] = (struct iovec){ .iov_base = (void *)(uintptr_t)zeros, .iov_len = n };
		h->last_own = false;
		len -= n;
	}
	return true;
}

enum hit_result { HIT, MISS, TOO_MANY };

static enum hit_result add_own_locked(struct hit *h, uint64_t start, uint64_t end)
{
	if (!h->io || nf_own_has_locked(h->io, start, end) < end)
		return MISS;
	if (h->nr == h->max)
		return TOO_MANY;
	const struct nf_io_priv *own = h->io->priv;
	h->iov[h->nr++] = (struct iovec){ .iov_base = own->own + (start - own->own_start),
					  .iov_len = (size_t)(end - start) };
	h->last_own = true;
	return HIT;
}

static enum hit_result build_locked(struct nf_ictx_priv *p, uint64_t start, uint64_t end,
				    struct hit *h)
{
	struct nf_spans it;
	struct nf_span sp;
	enum hit_result r = HIT;

	nf_spans_start(&it, p, start, end);
	while (r == HIT && nf_spans_next(&it, &sp)) {
		if (sp.kind == NF_SPAN_STORED)
			r = add_own_locked(h, sp.start, sp.end);
		else if (!(sp.kind == NF_SPAN_ZERO ? add_zeros(h, sp.end - sp.start)
						   : add_memory(h, sp.f, sp.start, sp.end)))
			r = TOO_MANY;
	}
	nf_spans_end(&it);
	if (r != HIT) {
		unpin_iov(p, h->iov, h->nr, false);
		h->nr = 0;
	}
	return r;
}

/* More pieces than a reply can have: they are copied together when the lock is dropped. */
static int build_many_locked(struct nf_ictx_priv *p, struct nf_io *io, uint64_t end)
{
	if (!io->priv)
		io->priv = calloc(1, sizeof *io->priv);
	if (!io->priv)
		return nf_fail(-ENOMEM);
	nf_auto_free uint8_t *joined = malloc((size_t)(end - io->pos_bytes));
	nf_auto_free struct iovec *pieces = calloc(PIECES_MAX, sizeof *pieces);
	if (!joined || !pieces)
		return nf_fail(-ENOMEM);
	struct hit h = { .iov = pieces, .max = PIECES_MAX, .io = io->priv->own ? io : NULL };
	enum hit_result r = build_locked(p, io->pos_bytes, end, &h);
	if (r == MISS)
		return -EAGAIN; /* the first look stopped before it came so far */
	if (r != HIT)
		return nf_fail(-EIO); /* smaller pieces than a quarter page each: refused */
	io->priv->joined = nf_steal(&joined);
	io->priv->pieces = nf_steal(&pieces);
	io->priv->nr_pieces = h.nr;
	return 0;
}

/* No lock held. */
static void join_pieces(struct nf_io *io)
{
	struct nf_io_priv *priv = io->priv;
	size_t at = 0;

	for (int i = 0; i < priv->nr_pieces; i++) {
		nf_copy_unordered(priv->joined + at, priv->pieces[i].iov_base, priv->pieces[i].iov_len);
		at += priv->pieces[i].iov_len;
	}
	nf_count(NF_C_READ_COPIED_BYTES, at);
	unpin_iov(io->ic->priv, priv->pieces, priv->nr_pieces, true);
	io->out_iov[0] = (struct iovec){ .iov_base = priv->joined, .iov_len = at };
	io->nr_out_iov = 1;
}

static uint64_t read_end(struct nf_ictx_priv *p, const struct nf_io *io)
{
	uint64_t size = nf_size(p);

	if (io->pos_bytes >= size)
		return io->pos_bytes;
	return NF_MIN(io->len_bytes, size - io->pos_bytes) + io->pos_bytes;
}

/* True if IO is answered, with its error set; false on a miss. */
static bool try_hit_locked(struct nf_ictx_priv *p, struct nf_io *io)
{
	struct hit h = { .iov = io->out_iov, .max = NF_IO_IOV_MAX,
			 .io = io->priv && io->priv->own ? io : NULL };
	uint64_t end = read_end(p, io);
	enum hit_result r = build_locked(p, io->pos_bytes, end, &h);

	int many = r == TOO_MANY ? build_many_locked(p, io, end) : 0;
	if (r == MISS || many == -EAGAIN)
		return false;
	io->nr_out_iov = h.nr;
	io->error = many;
	io->done_bytes = many < 0 ? 0 : end - io->pos_bytes;
	NF_ASSERT(io->done_bytes <= io->len_bytes);
	return true;
}

static void finish(struct nf_io *io)
{
	if (io->error)
		nf_io_priv_free(io);
	else if (io->priv && io->priv->pieces)
		join_pieces(io);
	io->done(io);
}

void nf_read_end(struct nf_io *io)
{
	struct nf_ictx_priv *p = io->ic->priv;

	if (io->error == 0)
		unpin_iov(p, io->out_iov, io->nr_out_iov, true);
	nf_io_priv_free(io);
	io->nr_out_iov = 0;
	if (io->flags & NF_IO_DIRECT) {
		nf_ic_lock(p);
		nf_folios_recheck_locked(p, io->pos_bytes, io->pos_bytes + io->len_bytes, true);
		nf_ic_unlock(p, NULL);
	}
}

/* --- read-ahead ------------------------------------------------------------------------------ */

/* The stream that POS continues; a new one if it continues none. */
static struct nf_stream_state *stream_of(struct nf_ictx_priv *p, uint64_t pos, bool *goes_on)
{
	struct nf_stream_state *oldest = &p->streams[0];

	for (unsigned i = 0; i < NF_STREAMS_WATCHED; i++) {
		struct nf_stream_state *st = &p->streams[i];
		if (st->used && pos + AHEAD_NEAR_BYTES >= st->next &&
		    pos <= st->next + (st->window ? AHEAD_NEAR_BYTES : 0)) {
			st->used = ++p->stream_clock;
			*goes_on = true;
			return st;
		}
		if (st->used < oldest->used)
			oldest = st;
	}
	*oldest = (struct nf_stream_state){ .used = ++p->stream_clock };
	*goes_on = pos == 0; /* whoever begins at the beginning will go on */
	return oldest;
}

/* The window grows while the stream goes on, and faster when its reader had to WAIT: so it soon holds what the line
 * carries in the time of an answer. */
static void read_ahead_locked(struct nf_ictx_priv *p, struct nf_todo *todo, uint64_t pos,
			      uint64_t end, bool wait)
{
	bool goes_on;
	struct nf_stream_state *st = stream_of(p, pos, &goes_on);

	st->next = NF_MAX(st->next, end);
	st->ahead_to = NF_MAX(st->ahead_to, end);
	uint64_t most = p->lib->read_ahead_bytes;
	uint64_t step = st->window < most ? st->window / 2 : st->window / AHEAD_STEP_SHARE;
	if (!goes_on || end < st->next || st->ahead_to - end > st->window - step)
		return;
	st->window = st->window ? st->window * (wait ? 8 : 2) : AHEAD_FIRST_BYTES;
	st->window = NF_MIN(st->window, most);
	uint64_t size = nf_size(p), to = NF_MIN(end + st->window, size);
	if (to > st->ahead_to && nf_read_missing_locked(p, todo, st->ahead_to, to, true) >= 0)
		st->ahead_to = to;
}

/* --- readers ------------------------------------------------------------------------------------ */

static void want_missing_locked(struct nf_ictx_priv *p, struct nf_todo *todo, struct nf_reader *rd)
{
	struct nf_io *io = rd->io;

	if (nf_own_is_in_line_locked(rd)) {
		if (nf_own_turn_locked(rd))
			nf_own_read_locked(rd, todo);
		return;
	}
	int r = nf_read_missing_locked(p, todo, nf_block_down(p, io->pos_bytes), read_end(p, io),
				       false);
	if (r)
		rd->asked++;
	if (r == -ENOMEM)
		nf_starve(p);
}

/* True if R is answered. */
static bool look_locked(struct nf_ictx_priv *p, struct nf_todo *todo, struct nf_reader *r)
{
	struct nf_io *io = r->io;

	if (io->priv && io->priv->nr_own_reads)
		return false; /* its buffer is being filled */
	if (!r->error) {
		if (try_hit_locked(p, io))
			return true;
		want_missing_locked(p, todo, r);
	}
	if (!r->error || (io->priv && io->priv->nr_own_reads))
		return false;
	io->error = r->error;
	io->done_bytes = 0;
	return true;
}

void nf_readers_locked(struct nf_ictx_priv *p, struct nf_todo *todo)
{
	nf_list_for_each_safe(r, &p->readers, struct nf_reader, link) {
		if (!look_locked(p, todo, r))
			continue;
		nf_own_leave_locked(r);
		nf_list_del(&r->link);
		nf_list_add_tail(&todo->readers, &r->link);
	}
}

void nf_reader_done(struct nf_reader *r)
{
	struct nf_io *io = r->io;
	struct nf_ictx_priv *p = io->ic->priv;

	free(r);
	finish(io);
	nf_ic_put(p);
}

static void look_again(struct nf_ictx_priv *p, struct nf_reader *r)
{
	nf_ic_lock(p);
	nf_list_add_tail(&p->readers, &r->link);
	nf_ic_unlock(p, NULL);
}

static void wrote_back(struct nf_waiter *w)
{
	struct nf_reader *r = nf_container_of(w, struct nf_reader, waiter);

	r->error = w->error;
	look_again(r->io->ic->priv, r);
}

/* O_DIRECT: what is dirty in the range is stored first. */
static bool write_back_first_locked(struct nf_ictx_priv *p, struct nf_reader *r)
{
	uint64_t end = read_end(p, r->io);

	if (!(r->io->flags & NF_IO_DIRECT) || !nf_range_in_use_locked(p, r->io->pos_bytes, end))
		return false;
	r->waiter = (struct nf_waiter){ .start = r->io->pos_bytes, .end = end, .seq = p->seq,
					.done = wrote_back };
	nf_waiter_add_locked(p, &r->waiter);
	return true;
}

static void miss(struct nf_ictx_priv *p, struct nf_io *io)
{
	struct nf_reader *r = calloc(1, sizeof *r);

	if (!r) {
		io->error = nf_fail(-ENOMEM);
		finish(io);
		return;
	}
	nf_list_init(&r->link);
	nf_list_init(&r->in_line);
	r->io = io;
	nf_ic_get(p); /* put in nf_reader_done() */
	nf_ic_lock(p);
	struct nf_todo todo;
	nf_todo_init(&todo);
	if (!write_back_first_locked(p, r)) {
		uint64_t end = read_end(p, io);
		nf_list_add_tail(&p->readers, &r->link);
		want_missing_locked(p, &todo, r);
		if (!(io->flags & (NF_IO_DIRECT | NF_IO_NOWAIT_AHEAD)))
			read_ahead_locked(p, &todo, io->pos_bytes, end, true);
	}
	nf_ic_unlock_todo(p, &todo);
}

void nf_read(struct nf_io *io)
{
	struct nf_ictx_priv *p = io->ic->priv;
	bool hit = false;

	io->error = 0;
	io->done_bytes = 0;
	io->nr_out_iov = 0;
	io->priv = NULL;
	if (io->len_bytes > NF_READ_MAX_BYTES || io->pos_bytes > INT64_MAX) {
		io->error = nf_fail(-EINVAL);
		io->done(io);
		return;
	}
	struct nf_todo todo;
	nf_todo_init(&todo);
	nf_ic_lock(p);
	if (!(io->flags & NF_IO_DIRECT))
		hit = try_hit_locked(p, io);
	if (hit && !(io->flags & NF_IO_NOWAIT_AHEAD))
		read_ahead_locked(p, &todo, io->pos_bytes, io->pos_bytes + io->done_bytes, false);
	if (nf_list_empty(&todo.issue))
		nf_lock_drop(&p->lock);
	else
		nf_ic_unlock_todo(p, &todo);
	if (hit) {
		nf_count(NF_C_READ_HIT_BYTES, io->done_bytes);
		finish(io);
	} else {
		miss(p, io);
	}
}

void nf_prefetch(struct nf_ictx *ic, uint64_t start, uint64_t end)
{
	struct nf_ictx_priv *p = ic->priv;

	struct nf_todo todo;
	nf_todo_init(&todo);
	nf_ic_lock(p);
	uint64_t size = nf_size(p);
	end = NF_MIN(end, size);
	if (start < end)
		(void)nf_read_missing_locked(p, &todo, nf_block_down(p, start), end, true);
	nf_ic_unlock_todo(p, &todo);
}

bool nf_peek(struct nf_ictx *ic, uint64_t pos_bytes, void *buf, size_t len)
{
	struct nf_ictx_priv *p = ic->priv;
	nf_auto_free struct iovec *pieces = calloc(PIECES_MAX, sizeof *pieces);
	struct hit h = { .iov = pieces, .max = PIECES_MAX };
	uint8_t *to = buf;

	if (!pieces)
		return false;
	nf_lock_take(&p->lock);
	enum hit_result r = build_locked(p, pos_bytes, pos_bytes + len, &h);
	nf_lock_drop(&p->lock);
	if (r != HIT)
		return false;
	for (int i = 0; i < h.nr; i++) {
		nf_copy_unordered(to, h.iov[i].iov_base, h.iov[i].iov_len);
		to += h.iov[i].iov_len;
	}
	unpin_iov(p, h.iov, h.nr, false);
	return true;
}
