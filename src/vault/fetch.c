/* vault/fetch.c - requests: from the cache, or in pieces from gets (fetch_get.h). */
#include "vault/fetch_get.h"

#include "base/assert.h"
#include "base/error.h"

enum { META_ROUND_BYTES = 64 << 10 };

int nf_fetch_new(const struct nf_fetch_options *o, struct nf_fetch **out)
{
	struct nf_fetch *f = calloc(1, sizeof *f);

	if (!f)
		return nf_fail(-ENOMEM);
	f->o = *o;
	nf_lock_init(&f->lock, NF_RANK_FETCH);
	nf_cond_init(&f->idle);
	nf_avl_init(&f->gets, NULL);
	nf_list_init(&f->reqs);
	nf_list_init(&f->windows);
	for (int i = 0; i < NF_FETCH_PRIORITIES; i++)
		nf_list_init(&f->queue[i]);
	*out = f;
	return 0;
}

const struct nf_fetch_options *nf_fetch_options(const struct nf_fetch *f) { return &f->o; }

void nf_fetch_free(struct nf_fetch *f)
{
	if (!f)
		return;
	nf_lock_take(&f->lock);
	while (f->active)
		nf_cond_wait(&f->idle, &f->lock);
	while (!nf_list_empty(&f->windows))
		nf_get_drop_window_locked(f, nf_list_first(&f->windows, struct nf_get, link));
	NF_ASSERT(nf_avl_empty(&f->gets) && nf_list_empty(&f->reqs) && f->bytes == 0);
	nf_lock_drop(&f->lock);
	nf_cond_deinit(&f->idle);
	nf_lock_deinit(&f->lock);
	free(f);
}

/* --- planning ------------------------------------------------------------------ */

static void raise_priority_locked(struct nf_fetch *f, struct nf_get *g, const struct nf_fetch_req *rq)
	NF_REQUIRES(f->lock)
{
	if (rq->kind == NF_FETCH_META)
		g->meta = true;
	if (g->state != NF_GET_QUEUED || g->priority <= rq->io->priority)
		return;
	g->priority = rq->io->priority;
	nf_list_del(&g->link);
	nf_list_add_tail(&f->queue[g->priority], &g->link);
}

/* Makes [start, end) of RQ a piece of G; of one that is there already, on READY. */
static int attach_locked(struct nf_fetch *f, struct nf_fetch_req *rq, struct nf_get *g, uint64_t start, uint64_t end,
			 struct nf_list *ready) NF_REQUIRES(f->lock)
{
	struct nf_fetch_io *io = rq->io;
	bool whole = start == io->offset_bytes && end == start + io->len_bytes;

	if (!whole && nf_fetch_need_own_locked(f, io) < 0)
		return nf_fail(-ENOMEM);
	struct nf_get_waiter *w = calloc(1, sizeof *w);
	if (!w)
		return nf_fail(-ENOMEM);
	*w = (struct nf_get_waiter){ .req = rq, .get = g, .start = start, .end = end };
	nf_list_init(&w->of_req);
	rq->pending++;
	if (g->state == NF_GET_FILLED) {
		g->refs++;
		nf_list_add_tail(ready, &w->link);
		if (nf_get_is_window_locked(g)) {
			nf_list_del(&g->link);
			nf_list_add_tail(&f->windows, &g->link);
		}
		return 0;
	}
	nf_list_add_tail(&g->waiters, &w->link);
	nf_list_add_tail(&rq->waiters, &w->of_req);
	raise_priority_locked(f, g, rq);
	return 0;
}

/* Lets a queued neighbour take over [start, end), if it may grow so far. */
static struct nf_get *grow_locked(struct nf_get *before, struct nf_get *behind, uint64_t start, uint64_t end)
{
	if (before && before->state == NF_GET_QUEUED && before->end == start &&
	    end - before->start <= NF_GET_MAX_BYTES) {
		before->end = end;
		return before;
	}
	if (behind && behind->state == NF_GET_QUEUED && behind->start == end &&
	    behind->end - start <= NF_GET_MAX_BYTES) {
		behind->start = start; /* its place in the tree stays */
		return behind;
	}
	return NULL;
}

/* A get for a gap that begins at POS and is wanted up to END, between the neighbours.  What RQ knows to be wanted
 * behind it comes along. */
static struct nf_get *fill_gap_locked(struct nf_fetch *f, struct nf_fetch_req *rq, uint64_t pos, uint64_t end,
				   struct nf_get *before, struct nf_get *behind) NF_REQUIRES(f->lock)
{
	uint64_t round = rq->kind == NF_FETCH_META ? META_ROUND_BYTES : NF_CACHE_UNIT;
	uint64_t start = nf_round_down(pos, round);

	if (before && before->end > start)
		start = before->end;
	if (end == (uint64_t)rq->io->offset_bytes + rq->io->len_bytes)
		end += rq->more_bytes;
	end = nf_round_up(NF_MIN(end, start + NF_GET_MAX_BYTES), round);
	if (end - start > NF_GET_MAX_BYTES)
		end = start + NF_GET_MAX_BYTES;
	if (behind && behind->start < end)
		end = behind->start;
	struct nf_get *g = grow_locked(before, behind, start, end);
	if (g)
		return g;
	g = nf_get_new(f, &rq->io->pack, start, end);
	if (!g)
		return NULL;
	g->priority = rq->io->priority;
	struct nf_get_key key = { &g->pack, g->start };
	struct nf_avl_node *other = nf_avl_add(&f->gets, &key, nf_get_cmp, &g->node);
	NF_ASSERT(!other);
	nf_list_add_tail(&f->queue[g->priority], &g->link);
	f->active++;
	return g;
}

static int plan_locked(struct nf_fetch *f, struct nf_fetch_req *rq, struct nf_list *ready) NF_REQUIRES(f->lock)
{
	const struct nf_fetch_io *io = rq->io;
	uint64_t pos = io->offset_bytes, end = pos + io->len_bytes;

	if (io->bypass_cache)
		nf_fetch_drop_windows_locked(f, &io->pack, pos, end);
	while (pos < end) {
		struct nf_get *before = NULL;
		struct nf_get *g = nf_get_find_locked(f, &io->pack, pos, &before);
		if (!g || g->start > pos)
			g = fill_gap_locked(f, rq, pos, g ? NF_MIN(end, g->start) : end, before, g);
		if (!g)
			return nf_fail(-ENOMEM);
		uint64_t upto = NF_MIN(end, g->end);
		int r = attach_locked(f, rq, g, pos, upto, ready);
		if (r < 0)
			return r;
		pos = upto;
	}
	return 0;
}

static void ask_store(struct nf_fetch *f, struct nf_fetch_req *rq)
{
	struct nf_list ready, done;
	const struct nf_fetch_io *io = rq->io;

	rq->more_bytes = io->more_bytes;
	if (f->o.cache && io->more_bytes &&
	    nf_cache_present(f->o.cache, &io->pack, (uint64_t)io->offset_bytes + io->len_bytes, io->more_bytes))
		rq->more_bytes = 0;
	nf_list_init(&ready);
	nf_list_init(&done);
	nf_lock_take(&f->lock);
	if (rq->error == 0)
		nf_req_set_error_locked(rq, plan_locked(f, rq, &ready));
	nf_req_step_locked(rq, &done);
	f->active++;
	nf_lock_drop(&f->lock);
	nf_fetch_deliver(f, &ready, 0);
	nf_fetch_finish_reqs(f, &done);
	nf_fetch_pump(f);
	nf_lock_take(&f->lock);
	nf_fetch_idle_step_locked(f);
	nf_lock_drop(&f->lock);
}

/* --- beginning ----------------------------------------------------------------- */

static void read_done(struct nf_cache_io *read)
{
	struct nf_fetch_req *rq = read->ctx;
	struct nf_fetch *f = rq->f;
	struct nf_list done;

	if (read->error != 0) { /* a disk error is a miss too */
		ask_store(f, rq);
		return;
	}
	rq->io->from_cache = true;
	nf_list_init(&done);
	nf_lock_take(&f->lock);
	nf_req_step_locked(rq, &done);
	nf_lock_drop(&f->lock);
	nf_fetch_finish_reqs(f, &done);
}

void nf_fetch_start(struct nf_fetch *f, struct nf_fetch_io *io, enum nf_fetch_kind kind)
{
	struct nf_fetch_req *rq = calloc(1, sizeof *rq);

	io->error = 0;
	io->from_cache = false;
	io->lent = (struct nf_fetch_lent){ 0 };
	if (!rq || io->len_bytes == 0) {
		free(rq);
		io->error = io->len_bytes ? nf_fail(-ENOMEM) : 0;
		io->done(io);
		return;
	}
	*rq = (struct nf_fetch_req){ .f = f, .io = io, .kind = kind, .pending = 1 };
	nf_list_init(&rq->waiters);
	nf_lock_take(&f->lock);
	nf_list_add_tail(&f->reqs, &rq->link);
	f->active++;
	nf_lock_drop(&f->lock);
	if (io->bypass_cache && f->o.cache)
		nf_cache_forget(f->o.cache, &io->pack, io->offset_bytes, io->len_bytes);
	if (io->bypass_cache || !f->o.cache || (!io->buf && !io->lend) ||
	    nf_cache_present(f->o.cache, &io->pack, io->offset_bytes, io->len_bytes) < io->len_bytes) {
		ask_store(f, rq);
		return;
	}
	nf_lock_take(&f->lock);
	rq->error = nf_fetch_need_own_locked(f, io);
	nf_lock_drop(&f->lock);
	if (rq->error < 0) {
		ask_store(f, rq); /* only ends it */
		return;
	}
	rq->read = (struct nf_cache_io){ .pack = io->pack, .offset_bytes = io->offset_bytes,
					 .len_bytes = io->len_bytes, .buf = io->lend ? io->lent.own : io->buf,
					 .done = read_done, .ctx = rq };
	nf_cache_read(f->o.cache, &rq->read);
}

void nf_fetch_submit(struct nf_fetch *f, struct nf_fetch_io *io) { nf_fetch_start(f, io, NF_FETCH_DATA); }

void nf_fetch_forget(struct nf_fetch *f, const struct nf_pack_id *pack, uint64_t offset_bytes, size_t len_bytes)
{
	if (f->o.cache)
		nf_cache_forget(f->o.cache, pack, offset_bytes, len_bytes);
	nf_lock_take(&f->lock);
	nf_fetch_drop_windows_locked(f, pack, offset_bytes, offset_bytes + len_bytes);
	nf_lock_drop(&f->lock);
}

/* --- cancelling ---------------------------------------------------------------- */

/* A get nobody waits for any more: gone from the queue, or cancelled on the store by cancel_gets().  One just being
 * submitted is left to end by itself. */
static void abandon_get_locked(struct nf_fetch *f, struct nf_get *g, struct nf_list *doomed) NF_REQUIRES(f->lock)
{
	nf_get_unlink_locked(f, g);
	nf_list_del(&g->link);
	if (g->state == NF_GET_QUEUED) {
		nf_get_put_locked(f, g);
		nf_fetch_idle_step_locked(f);
		return;
	}
	NF_ASSERT(g->state == NF_GET_RUNNING);
	if (g->submitting)
		return;
	g->refs++;
	g->cancelling = true;
	g->canceller = pthread_self();
	nf_list_add_tail(doomed, &g->link);
}

static void cancel_gets(struct nf_fetch *f, struct nf_list *doomed)
{
	nf_list_for_each(g, doomed, struct nf_get, link)
		nf_store_cancel(f->o.store, &g->op);
	nf_lock_take(&f->lock);
	nf_list_for_each_safe(g, doomed, struct nf_get, link) {
		g->cancelling = false;
		nf_list_del(&g->link);
		nf_get_put_locked(f, g);
	}
	nf_cond_broadcast(&f->idle);
	nf_lock_drop(&f->lock);
}

static struct nf_fetch_req *find_req_locked(struct nf_fetch *f, const struct nf_fetch_io *io) NF_REQUIRES(f->lock)
{
	nf_list_for_each(rq, &f->reqs, struct nf_fetch_req, link) {
		if (rq->io == io)
			return rq;
	}
	return NULL;
}

void nf_fetch_cancel(struct nf_fetch *f, struct nf_fetch_io *io)
{
	struct nf_list done, doomed;

	nf_list_init(&done);
	nf_list_init(&doomed);
	nf_lock_take(&f->lock);
	f->active++;
	struct nf_fetch_req *rq = find_req_locked(f, io);
	if (rq) {
		rq->pending++;
		nf_req_set_error_locked(rq, -NF_E_CANCELLED);
		nf_list_for_each_safe(w, &rq->waiters, struct nf_get_waiter, of_req) {
			struct nf_get *g = w->get;
			nf_list_del(&w->link);
			nf_list_del(&w->of_req);
			free(w);
			rq->pending--;
			if (nf_list_empty(&g->waiters))
				abandon_get_locked(f, g, &doomed);
		}
		nf_req_step_locked(rq, &done);
	}
	nf_lock_drop(&f->lock);
	nf_fetch_finish_reqs(f, &done);
	cancel_gets(f, &doomed);
	nf_fetch_pump(f);
	nf_lock_take(&f->lock);
	nf_fetch_idle_step_locked(f);
	nf_lock_drop(&f->lock);
}
