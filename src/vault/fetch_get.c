/* vault/fetch_get.c - gets: from the queue through the store to the cache; what waits for them. */
#include "vault/fetch_get.h"

#include "base/assert.h"
#include "base/counter.h"
#include "base/error.h"
#include "vault/pack.h"

enum {
	GET_BYTES_MAX = 64 << 20,
	/* What does not stand in the way of a user leaves room for what does. */
	GET_BYTES_MAX_BEHIND = 48 << 20,
	GETS_MAX_BEHIND = 8,
	WINDOWS_MAX_BYTES = 4 << 20,
	/* Buffers from this size on have NF_GET_MAX_BYTES and are kept for the next. */
	KEPT_BYTES_MIN = 256 << 10,
};

void *nf_fetch_buf_locked(struct nf_fetch *f, size_t len)
{
	if (len < KEPT_BYTES_MIN || len > NF_GET_MAX_BYTES)
		return malloc(len);
	return f->nr_spare ? f->spare[--f->nr_spare] : malloc(NF_GET_MAX_BYTES);
}

void nf_fetch_buf_free_locked(struct nf_fetch *f, void *buf, size_t len)
{
	if (buf && len >= KEPT_BYTES_MIN && len <= NF_GET_MAX_BYTES && f->active && f->nr_spare < NF_FETCH_SPARE_MAX)
		f->spare[f->nr_spare++] = buf;
	else
		free(buf);
}

void nf_fetch_idle_step_locked(struct nf_fetch *f) NF_REQUIRES(f->lock)
{
	NF_ASSERT(f->active > 0);
	if (--f->active)
		return;
	while (f->nr_spare)
		free(f->spare[--f->nr_spare]);
	nf_cond_broadcast(&f->idle);
}

int nf_get_cmp(const void *key, const struct nf_avl_node *n)
{
	const struct nf_get_key *k = key;
	const struct nf_get *g = nf_container_of(n, const struct nf_get, node);
	int r = memcmp(k->pack, &g->pack, sizeof g->pack);

	if (r)
		return r;
	return k->start < g->start ? -1 : k->start > g->start;
}

static struct nf_get *get_of(struct nf_avl_node *n, const struct nf_pack_id *pack)
{
	struct nf_get *g = n ? nf_container_of(n, struct nf_get, node) : NULL;

	return g && memcmp(&g->pack, pack, sizeof *pack) == 0 ? g : NULL;
}

struct nf_get *nf_get_find_locked(struct nf_fetch *f, const struct nf_pack_id *pack, uint64_t pos,
				   struct nf_get **before) NF_REQUIRES(f->lock)
{
	struct nf_get_key key = { pack, pos };
	struct nf_avl_node *n = nf_avl_lower(&f->gets, &key, nf_get_cmp);
	struct nf_get *at = get_of(n, pack);

	if (at && at->start == pos)
		n = nf_avl_prev(n);
	else
		n = n ? nf_avl_prev(n) : nf_avl_last(&f->gets);
	struct nf_get *prev = get_of(n, pack);
	if (prev && prev->end > pos)
		return prev;
	*before = prev;
	return at;
}

struct nf_get *nf_get_new(struct nf_fetch *f, const struct nf_pack_id *pack, uint64_t start, uint64_t end)
{
	struct nf_get *g = calloc(1, sizeof *g);

	if (!g)
		return NULL;
	nf_list_init(&g->link);
	nf_list_init(&g->waiters);
	g->f = f;
	g->pack = *pack;
	g->start = start;
	g->end = end;
	g->refs = 1;
	return g;
}

void nf_get_put_locked(struct nf_fetch *f, struct nf_get *g) NF_REQUIRES(f->lock)
{
	NF_ASSERT(g->refs > 0);
	if (--g->refs)
		return;
	NF_ASSERT(!nf_avl_linked(&g->node) && nf_list_empty(&g->link) && nf_list_empty(&g->waiters));
	nf_fetch_buf_free_locked(f, g->buf, (size_t)(g->end - g->start));
	free(g);
}

void nf_get_unlink_locked(struct nf_fetch *f, struct nf_get *g) NF_REQUIRES(f->lock)
{
	if (nf_avl_linked(&g->node))
		nf_avl_erase(&f->gets, &g->node);
}

void nf_get_drop_window_locked(struct nf_fetch *f, struct nf_get *g) NF_REQUIRES(f->lock)
{
	f->window_bytes -= (size_t)(g->end - g->start);
	nf_list_del(&g->link);
	nf_get_unlink_locked(f, g);
	nf_get_put_locked(f, g);
}

/* Takes over the reference of the get's life in flight. */
static void keep_window_locked(struct nf_fetch *f, struct nf_get *g) NF_REQUIRES(f->lock)
{
	nf_list_add_tail(&f->windows, &g->link);
	f->window_bytes += (size_t)(g->end - g->start);
	while (f->window_bytes > WINDOWS_MAX_BYTES)
		nf_get_drop_window_locked(f, nf_list_first(&f->windows, struct nf_get, link));
}

bool nf_get_is_window_locked(const struct nf_get *g) { return g->state == NF_GET_FILLED && !nf_list_empty(&g->link); }

void nf_fetch_drop_windows_locked(struct nf_fetch *f, const struct nf_pack_id *pack, uint64_t start, uint64_t end)
	NF_REQUIRES(f->lock)
{
	nf_list_for_each_safe(g, &f->windows, struct nf_get, link) {
		if (memcmp(&g->pack, pack, sizeof *pack) == 0 && g->start < end && start < g->end)
			nf_get_drop_window_locked(f, g);
	}
}

/* --- the end of requests ------------------------------------------------------- */

void nf_req_set_error_locked(struct nf_fetch_req *rq, int error)
{
	if (error < 0 && rq->error == 0)
		rq->error = error;
}

void nf_req_step_locked(struct nf_fetch_req *rq, struct nf_list *done)
{
	NF_ASSERT(rq->pending > 0);
	if (--rq->pending == 0) {
		nf_list_del(&rq->link);
		nf_list_add_tail(done, &rq->link);
	}
}

void nf_fetch_finish_reqs(struct nf_fetch *f, struct nf_list *done)
{
	while (!nf_list_empty(done)) {
		struct nf_fetch_req *rq = nf_list_first(done, struct nf_fetch_req, link);
		struct nf_fetch_io *io = rq->io;
		nf_list_del(&rq->link);
		io->error = rq->error;
		if (io->error < 0)
			nf_fetch_give_back(f, &io->lent);
		free(rq);
		io->done(io);
		nf_lock_take(&f->lock);
		nf_fetch_idle_step_locked(f);
		nf_lock_drop(&f->lock);
	}
}

static int copy_piece(const struct nf_get_waiter *w)
{
	const struct nf_get *g = w->get;
	struct nf_fetch_io *io = w->req->io;

	if (w->end > g->filled_end) {
		nf_count(NF_C_STORE_BAD, 1);
		return nf_fail(-NF_E_XFORM_TRUNCATED);
	}
	void *to = io->lend ? io->lent.own : io->buf;
	if (to)
		memcpy((uint8_t *)to + (w->start - io->offset_bytes), g->buf + (w->start - g->start),
		       (size_t)(w->end - w->start));
	return 0;
}

/* --- loans --------------------------------------------------------------------- */

/* All that W's request wants is in W's get: the loan is a reference of it. */
static void lend_locked(struct nf_fetch *f, struct nf_get_waiter *w) NF_REQUIRES(f->lock)
{
	struct nf_fetch_io *io = w->req->io;

	if (!io->lend || io->lent.own || w->error < 0)
		return;
	io->lent.get = w->get;
	io->lent.bytes = w->get->buf + (w->start - w->get->start);
	w->get->refs++;
	f->active++;
}

int nf_fetch_need_own_locked(struct nf_fetch *f, struct nf_fetch_io *io)
{
	if (!io->lend || io->lent.own)
		return 0;
	io->lent.own = io->lent.bytes = nf_fetch_buf_locked(f, io->len_bytes);
	if (!io->lent.own)
		return nf_fail(-ENOMEM);
	io->lent.len_bytes = io->len_bytes;
	f->active++;
	return 0;
}

void nf_fetch_give_back(struct nf_fetch *f, struct nf_fetch_lent *lent)
{
	if (!lent->own && !lent->get)
		return;
	nf_lock_take(&f->lock);
	nf_fetch_buf_free_locked(f, lent->own, lent->len_bytes);
	if (lent->get)
		nf_get_put_locked(f, lent->get);
	nf_fetch_idle_step_locked(f);
	nf_lock_drop(&f->lock);
	*lent = (struct nf_fetch_lent){ 0 };
}

void nf_fetch_deliver(struct nf_fetch *f, struct nf_list *pieces, int error)
{
	struct nf_list done;

	if (nf_list_empty(pieces))
		return;
	nf_list_init(&done);
	nf_list_for_each(w, pieces, struct nf_get_waiter, link)
		w->error = error < 0 ? error : copy_piece(w);
	nf_lock_take(&f->lock);
	nf_list_for_each_safe(w, pieces, struct nf_get_waiter, link) {
		w->get->torn |= error == 0 && w->error < 0;
		nf_req_set_error_locked(w->req, w->error);
		lend_locked(f, w);
		nf_req_step_locked(w->req, &done);
		nf_get_put_locked(f, w->get);
		nf_list_del(&w->link);
		free(w);
	}
	nf_lock_drop(&f->lock);
	nf_fetch_finish_reqs(f, &done);
}

/* Takes a waiter from where it can be cancelled to a list for nf_fetch_deliver(). */
static void take_waiter_locked(struct nf_get_waiter *w, struct nf_list *pieces)
{
	nf_list_del(&w->link);
	nf_list_del(&w->of_req);
	w->get->refs++;
	nf_list_add_tail(pieces, &w->link);
}

/* --- sending ------------------------------------------------------------------- */

static void get_done(struct nf_store_op *op);

static bool may_run_locked(const struct nf_fetch *f, const struct nf_get *g)
{
	size_t bytes = f->bytes + (size_t)(g->end - g->start);

	if (g->priority == NF_STORE_FOREGROUND)
		return bytes <= GET_BYTES_MAX;
	return bytes <= GET_BYTES_MAX_BEHIND && f->running < GETS_MAX_BEHIND;
}

/* Takes the next get that may be sent off its queue. */
static struct nf_get *next_get_locked(struct nf_fetch *f) NF_REQUIRES(f->lock)
{
	for (int i = 0; i < NF_FETCH_PRIORITIES; i++) {
		if (nf_list_empty(&f->queue[i]))
			continue;
		struct nf_get *g = nf_list_first(&f->queue[i], struct nf_get, link);
		if (!may_run_locked(f, g))
			return NULL;
		nf_list_del(&g->link);
		g->state = NF_GET_RUNNING;
		g->submitting = true;
		g->refs++;
		f->bytes += (size_t)(g->end - g->start);
		f->running++;
		return g;
	}
	return NULL;
}

static void send_get(struct nf_fetch *f, struct nf_get *g)
{
	size_t len = (size_t)(g->end - g->start);

	g->op = (struct nf_store_op){ .verb = NF_STORE_GET, .priority = g->priority, .offset_bytes = g->start,
				      .length_bytes = len, .whole = true, .done = get_done, .ctx = g };
	nf_pack_name(&g->pack, g->op.name);
	nf_lock_take(&f->lock);
	g->buf = nf_fetch_buf_locked(f, len);
	nf_lock_drop(&f->lock);
	g->op.buf = g->buf;
	if (g->buf) {
		nf_store_submit(f->o.store, &g->op);
	} else {
		g->op.error = -ENOMEM;
		get_done(&g->op);
	}
}

void nf_fetch_pump(struct nf_fetch *f)
{
	struct nf_get *g;

	nf_lock_take(&f->lock);
	if (!f->pumping) {
		f->pumping = true;
		f->active++;
		while ((g = next_get_locked(f))) {
			nf_lock_drop(&f->lock);
			send_get(f, g);
			nf_lock_take(&f->lock);
			g->submitting = false;
			nf_get_put_locked(f, g);
		}
		f->pumping = false;
		nf_fetch_idle_step_locked(f);
	}
	nf_lock_drop(&f->lock);
}

/* --- the end of gets ----------------------------------------------------------- */

/* The last step of a get that was sent. */
static void release_get(struct nf_fetch *f, struct nf_get *g)
{
	if (g->lasting)
		nf_cache_announced(f->o.cache, g->round);
	nf_lock_take(&f->lock);
	f->bytes -= (size_t)(g->end - g->start);
	if (g->state == NF_GET_FILLED && g->meta && !f->o.cache && nf_avl_linked(&g->node)) {
		keep_window_locked(f, g);
	} else {
		nf_get_unlink_locked(f, g);
		nf_get_put_locked(f, g);
	}
	nf_lock_drop(&f->lock);
	nf_fetch_pump(f);
	nf_lock_take(&f->lock);
	nf_fetch_idle_step_locked(f);
	nf_lock_drop(&f->lock);
}

/* A cache that cannot be written is merely absent: its error is the cache's to count. */
static void insert_done(struct nf_cache_io *io)
{
	struct nf_get *g = io->ctx;

	release_get(g->f, g);
}

static void store_in_cache(struct nf_fetch *f, struct nf_get *g)
{
	size_t len = g->op.transferred_bytes;
	bool at_end = len < g->op.length_bytes || g->start + len == g->op.size_bytes;

	if (!at_end)
		len = nf_round_down(len, NF_CACHE_UNIT);
	nf_lock_take(&f->lock);
	bool torn = g->torn;
	nf_lock_drop(&f->lock);
	if (!f->o.cache || len == 0 || torn) {
		release_get(f, g);
		return;
	}
	g->insert = (struct nf_cache_io){ .pack = g->pack, .offset_bytes = g->start, .len_bytes = len,
					  .buf = g->buf, .at_end = at_end, .lasting = g->lasting, .done = insert_done, .ctx = g };
	nf_cache_insert(f->o.cache, &g->insert);
}

static int get_error(const struct nf_store_op *op)
{
	return nf_fail(op->error == -NF_E_STORE_NOT_FOUND ? -NF_E_PACK_MISSING : op->error);
}

/* nf_store_cancel() may not be called once done has returned: wait for one under way, unless it is that very call
 * that brought us here. */
static void wait_canceller_locked(struct nf_fetch *f, struct nf_get *g) NF_REQUIRES(f->lock)
{
	while (g->cancelling && !pthread_equal(g->canceller, pthread_self()))
		nf_cond_wait(&f->idle, &f->lock);
}

static void get_done(struct nf_store_op *op)
{
	struct nf_get *g = op->ctx;
	struct nf_fetch *f = g->f;
	struct nf_list pieces;
	int r = get_error(op);

	nf_list_init(&pieces);
	nf_lock_take(&f->lock);
	wait_canceller_locked(f, g);
	f->running--;
	g->state = r < 0 ? NF_GET_FAILED : NF_GET_FILLED;
	g->filled_end = g->start + op->transferred_bytes;
	if (r < 0)
		nf_get_unlink_locked(f, g);
	nf_list_for_each_safe(w, &g->waiters, struct nf_get_waiter, link)
		take_waiter_locked(w, &pieces);
	g->lasting = g->meta && f->o.cache && r == 0;
	nf_lock_drop(&f->lock);
	/* Before anybody can do something that depends on it. */
	if (g->lasting)
		g->round = nf_cache_announce(f->o.cache);
	nf_fetch_deliver(f, &pieces, r);
	if (r < 0)
		release_get(f, g);
	else
		store_in_cache(f, g);
}
