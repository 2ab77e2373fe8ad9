/* Conflicts: local modifications against a version by other hands.
 *
 * Everything is done by ordinary calls, one after the other:
 *
 *	flush/discard -> exchange -> step, step, step -> done
 *
 * A step truncates, punches or copies a piece.  A copy's source stays pinned while it is written.  Each call's end puts the next
 * step on the pool, so that calls that end at once do not pile up on the stack. */
#include "foliofs/conflict.h"

#include "base/assert.h"
#include "base/error.h"
#include "base/mem.h"
#include "base/trace.h"
#include "netfs/types.h"

#include <inttypes.h>
#include <linux/falloc.h>

enum { COPY_BYTES = 256 << 10 };

/* --- what was changed ------------------------------------------------------------------------ */

struct nf_changes {
	uint64_t base_size_bytes;
	uint64_t least_size_bytes; /* UINT64_MAX: never truncated */
	uint64_t size_bytes;
	bool appended;
	bool page_granular;
	struct nf_rangeset ranges;
	struct nf_rangeset holes;
};

int nf_changes_new(uint64_t base_size_bytes, struct nf_changes **out)
{
	struct nf_changes *ch = calloc(1, sizeof *ch);

	if (!ch)
		return nf_fail(-ENOMEM);
	ch->base_size_bytes = ch->size_bytes = base_size_bytes;
	ch->least_size_bytes = UINT64_MAX;
	nf_rangeset_init(&ch->ranges);
	nf_rangeset_init(&ch->holes);
	*out = ch;
	return 0;
}

void nf_changes_free(struct nf_changes *ch)
{
	if (!ch)
		return;
	nf_rangeset_deinit(&ch->ranges);
	nf_rangeset_deinit(&ch->holes);
	free(ch);
}

void nf_changes_add(struct nf_changes *ch, const struct nf_group_info *g)
{
	if (g->least_size_bytes != UINT64_MAX) {
		nf_rangeset_remove(&ch->ranges, g->least_size_bytes, UINT64_MAX);
		nf_rangeset_remove(&ch->holes, g->least_size_bytes, UINT64_MAX);
		ch->least_size_bytes = NF_MIN(ch->least_size_bytes, g->least_size_bytes);
	}
	for (size_t i = 0; i < g->nr_holes; i++) {
		nf_rangeset_remove(&ch->ranges, g->holes[i].start, g->holes[i].end);
		/* Beyond the end of the base a hole is only what lies between: it is no reason to zero what others put there. */
		if (g->holes[i].start < ch->base_size_bytes)
			nf_rangeset_add(&ch->holes, g->holes[i].start, NF_MIN(g->holes[i].end, ch->base_size_bytes));
	}
	for (size_t i = 0; i < g->nr_ranges; i++) {
		nf_rangeset_remove(&ch->holes, g->ranges[i].start, g->ranges[i].end);
		nf_rangeset_add(&ch->ranges, g->ranges[i].start, g->ranges[i].end);
	}
	ch->size_bytes = g->size_bytes;
	ch->appended = ch->appended || g->appended;
	ch->page_granular = ch->page_granular || g->page_granular;
}

bool nf_changes_exact(const struct nf_changes *ch) { return !ch->page_granular; }

/* Where bytes beyond the end of the base belong to the end, wherever that is. */
static bool moves_with_end(const struct nf_changes *ch) { return ch->appended && ch->least_size_bytes == UINT64_MAX; }

static bool touches(const struct nf_changes *ch, uint64_t start, uint64_t end)
{
	uint64_t s, e;

	return start < end && ((nf_rangeset_next(&ch->ranges, start, &s, &e) && s < end) ||
			       (nf_rangeset_next(&ch->holes, start, &s, &e) && s < end) || end > ch->least_size_bytes);
}

static bool any_touches(const struct nf_rangeset *set, const struct nf_changes *ch, uint64_t limit)
{
	uint64_t s, e;

	for (uint64_t pos = 0; nf_rangeset_next(set, pos, &s, &e) && s < limit; pos = e)
		if (touches(ch, s, NF_MIN(e, limit)))
			return true;
	return false;
}

bool nf_changes_overlap(const struct nf_changes *a, const struct nf_changes *b)
{
	uint64_t limit = moves_with_end(a) || moves_with_end(b) ? NF_MIN(a->base_size_bytes, b->base_size_bytes) : UINT64_MAX;

	if (any_touches(&a->ranges, b, limit) || any_touches(&a->holes, b, limit))
		return true;
	return any_touches(&b->ranges, a, limit) || any_touches(&b->holes, a, limit);
}

/* --- steps -------------------------------------------------------------------------------------- */

struct step {
	enum { STEP_TRUNCATE, STEP_PUNCH, STEP_COPY, STEP_COPY_DATA } kind; /* COPY_DATA: zeros need not be written */
	uint64_t from, to, len; /* TRUNCATE: to */
};

struct nf_conflict_priv {
	struct nf_conflict *c;
	struct nf_pool *pool;
	struct nf_work work;
	enum { PHASE_FLUSHED, PHASE_STEPS, PHASE_READ, PHASE_WRITTEN } phase;
	struct nf_io io;      /* calls on the file or the stash */
	struct nf_io source;  /* reads of the local version */
	struct nf_ictx *to;
	struct step *steps;
	size_t nr, cap, at;
	bool failed;          /* no memory for a step */
};

static void add_step(struct nf_conflict_priv *cp, struct step s)
{
	if (cp->nr == cp->cap) {
		size_t cap = cp->cap ? cp->cap * 2 : 16;
		struct step *more = realloc(cp->steps, cap * sizeof *more);
		if (!more) {
			cp->failed = true;
			return;
		}
		cp->steps = more;
		cp->cap = cap;
	}
	cp->steps[cp->nr++] = s;
}

static void plan_whole(struct nf_conflict_priv *cp, uint64_t size)
{
	add_step(cp, (struct step){ .kind = STEP_TRUNCATE, .to = 0 });
	add_step(cp, (struct step){ .kind = STEP_COPY_DATA, .len = size });
	add_step(cp, (struct step){ .kind = STEP_TRUNCATE, .to = size });
}

static void plan_reapply(struct nf_conflict_priv *cp, const struct nf_changes *ch, uint64_t size)
{
	bool cut = ch->least_size_bytes != UINT64_MAX, moves = moves_with_end(ch);
	uint64_t base = ch->base_size_bytes, s, e;

	if (cut && ch->least_size_bytes < size) {
		size = ch->least_size_bytes;
		add_step(cp, (struct step){ .kind = STEP_TRUNCATE, .to = size });
	}
	for (uint64_t pos = 0; nf_rangeset_next(&ch->holes, pos, &s, &e); pos = e)
		if (s < size)
			add_step(cp, (struct step){ .kind = STEP_PUNCH, .to = s, .len = NF_MIN(e, size) - s });
	for (uint64_t pos = 0; nf_rangeset_next(&ch->ranges, pos, &s, &e); pos = e) {
		uint64_t stay = e; /* up to here in its place, the rest at the new end */
		if (moves && base < e)
			stay = NF_MAX(s, base);
		if (s < stay)
			add_step(cp, (struct step){ .kind = STEP_COPY, .from = s, .to = s, .len = stay - s });
		if (stay < e)
			add_step(cp, (struct step){ .kind = STEP_COPY, .from = stay, .to = stay - base + size, .len = e - stay });
	}
	uint64_t end = moves && ch->size_bytes > base ? ch->size_bytes - base + size : ch->size_bytes;
	if (cut || (ch->size_bytes > base && end > size))
		add_step(cp, (struct step){ .kind = STEP_TRUNCATE, .to = end });
}

/* --- running them --------------------------------------------------------------------------------- */

static void finish(struct nf_conflict_priv *cp, int error)
{
	struct nf_conflict *c = cp->c;

	if (error == 0 && cp->to)
		(void)nf_group_close(cp->to);
	nf_trace(REGION, "conflict ino=%" PRIx64 " did=%d moved=%" PRIx64 " err=%d", c->ic->ino, (int)c->did, c->moved_bytes,
		 error);
	c->error = error;
	c->priv = NULL;
	free(cp->steps);
	free(cp);
	c->done(c);
}

static void again(struct nf_io *io)
{
	struct nf_conflict_priv *cp = io->ctx;

	nf_pool_add(cp->pool, &cp->work);
}

static void call_on(struct nf_conflict_priv *cp, struct nf_ictx *ic, uint64_t pos, uint64_t len)
{
	cp->io = (struct nf_io){ .ic = ic, .pos_bytes = pos, .len_bytes = len, .done = again, .ctx = cp };
}

static void flush(struct nf_conflict_priv *cp)
{
	cp->phase = PHASE_FLUSHED;
	call_on(cp, cp->c->ic, 0, 0);
	if (cp->c->mode == NF_CONFLICT_DISCARD) {
		nf_discard(cp->c->ic, cp->c->discard_error);
		again(&cp->io);
	} else {
		nf_fsync(&cp->io);
	}
}

static void next_step(struct nf_conflict_priv *cp)
{
	struct step *s = &cp->steps[cp->at];

	cp->phase = PHASE_STEPS;
	if (cp->at == cp->nr) {
		finish(cp, 0);
	} else if (s->kind == STEP_TRUNCATE) {
		cp->at++;
		call_on(cp, cp->to, 0, s->to);
		nf_truncate(&cp->io);
	} else if (s->kind == STEP_PUNCH) {
		cp->at++;
		call_on(cp, cp->to, s->to, s->len);
		nf_fallocate(&cp->io, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE);
	} else if (s->len == 0) {
		cp->at++;
		call_on(cp, cp->to, 0, 0);
		again(&cp->io);
	} else {
		cp->phase = PHASE_READ;
		cp->source = (struct nf_io){ .ic = cp->c->local, .pos_bytes = s->from,
					     .len_bytes = NF_MIN(s->len, (uint64_t)COPY_BYTES), .done = again, .ctx = cp };
		nf_read(&cp->source);
	}
}

static bool all_zero(const struct nf_io *io)
{
	for (int i = 0; i < io->nr_out_iov; i++) {
		const uint8_t *p = io->out_iov[i].iov_base;
		size_t len = io->out_iov[i].iov_len;
		if (len && (p[0] || memcmp(p, p + 1, len - 1)))
			return false;
	}
	return true;
}

static void piece_read(struct nf_conflict_priv *cp)
{
	struct step *s = &cp->steps[cp->at];
	uint64_t n = cp->source.done_bytes;

	if (cp->source.error) {
		finish(cp, cp->source.error);
		return;
	}
	cp->phase = PHASE_WRITTEN;
	call_on(cp, cp->to, s->to, n);
	if (n < NF_MIN(s->len, (uint64_t)COPY_BYTES))
		s->len = n; /* the local version ends here */
	s->from += n;
	s->to += n;
	s->len -= n;
	cp->io.iov = cp->source.out_iov;
	cp->io.nr_iov = cp->source.nr_out_iov;
	if (n == 0 || (s->kind == STEP_COPY_DATA && all_zero(&cp->source))) {
		again(&cp->io);
		return;
	}
	cp->c->moved_bytes += n;
	nf_write(&cp->io);
}

static void begin_steps(struct nf_conflict_priv *cp)
{
	struct nf_conflict *c = cp->c;
	int r = 0;

	c->did = c->mode;
	if (c->mode == NF_CONFLICT_DISCARD) {
		finish(cp, 0);
		return;
	}
	if (c->mode == NF_CONFLICT_REAPPLY &&
	    (!nf_changes_exact(c->changes) || (c->theirs && nf_changes_overlap(c->changes, c->theirs))))
		c->did = NF_CONFLICT_STASH;
	cp->to = c->ic;
	if (c->did == NF_CONFLICT_STASH)
		r = c->ops->stash(c, &cp->to);
	if (r < 0) {
		cp->to = NULL;
		finish(cp, r);
		return;
	}
	/* What is moved is one group, apart from what was written before. */
	(void)nf_group_close(cp->to);
	if (c->did == NF_CONFLICT_REAPPLY)
		plan_reapply(cp, c->changes, c->size_bytes);
	else
		plan_whole(cp, nf_i_size(c->local));
	if (cp->failed)
		finish(cp, nf_fail(-ENOMEM));
	else
		next_step(cp);
}

static void flushed(struct nf_conflict_priv *cp)
{
	int r = cp->io.error ? cp->io.error : cp->c->ops->exchange(cp->c);

	if (r == -EAGAIN)
		flush(cp);
	else if (r < 0)
		finish(cp, r);
	else
		begin_steps(cp);
}

static void run(struct nf_work *w)
{
	struct nf_conflict_priv *cp = nf_container_of(w, struct nf_conflict_priv, work);

	switch (cp->phase) {
	case PHASE_FLUSHED:
		flushed(cp);
		return;
	case PHASE_READ:
		piece_read(cp);
		return;
	case PHASE_WRITTEN:
		nf_read_end(&cp->source);
		break;
	case PHASE_STEPS:
		break;
	}
	if (cp->io.error)
		finish(cp, cp->io.error);
	else
		next_step(cp);
}

void nf_conflict(struct nf_conflict *c)
{
	struct nf_conflict_priv *cp = calloc(1, sizeof *cp);

	c->error = 0;
	c->moved_bytes = 0;
	c->did = c->mode;
	if (!cp) {
		c->error = nf_fail(-ENOMEM);
		c->done(c);
		return;
	}
	c->priv = cp;
	cp->c = c;
	cp->pool = c->ic->priv->lib->pool;
	nf_work_init(&cp->work, run);
	flush(cp);
}
