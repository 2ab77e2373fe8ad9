/* One pack as the fetcher sees it:
 *
 *   offset   0       4K      8K      12K     16K     20K     24K     28K
 *   gets     |== A: running ========|       |== B: queued ==|        disjoint, on unit boundaries
 *   req 1       [~~~~~~~~~]                                          waits for A
 *   req 2                        [~~~~~~~~~~~~~]                     waits for A, for B, and for a new get between
 *
 *   get:  QUEUED -> RUNNING -> FILLED -> gone          FILLED while the cache stores the bytes (or, without a cache,
 *            |         `-----> FAILED                  while metadata is kept as a window): who comes then is
 *            `-> gone (cancelled)                      served from the buffer
 *
 * A request is first tried on the cache, whole.  What it lacks is cut into pieces along the gets of the pack; each
 * piece is a `waiter` of one get; the request ends when its last piece has.  A get asks with op->whole, since it may
 * reach over the end of the pack, whose length nobody knows; a piece beyond what came is an error.
 *
 * Memory: at most GET_BYTES_MAX in buffers between the sending of a get and the end of its insert; further gets
 * queue, foreground first, and grow there to GET_MAX_BYTES by what is adjacent. */
#include "vault/fetch_priv.h"

#include "base/assert.h"
#include "base/counter.h"
#include "base/error.h"
#include "base/list.h"
#include "base/lock.h"
#include "vault/pack.h"

enum {
	GET_MAX_BYTES = 4 << 20,
	GET_BYTES_MAX = 64 << 20,
	/* What does not stand in the way of a user leaves room for what does. */
	GET_BYTES_MAX_BEHIND = 48 << 20,
	GETS_MAX_BEHIND = 8,
	META_ROUND_BYTES = 64 << 10,
	WINDOWS_MAX_BYTES = 4 << 20,
	PRIORITIES = NF_STORE_BACKGROUND + 1,
};

enum get_state { GET_QUEUED, GET_RUNNING, GET_FILLED, GET_FAILED };

/* l lock;  I set before publication;  o its owner's: whoever runs the get's present step */
struct get {
	struct nf_avl_node node;        /* l  of f->gets, unless failed or cancelled */
	struct nf_list link;            /* l  of f->queue[priority] or f->windows */
	struct nf_list waiters;         /* l */
	struct nf_fetch *f;             /* I */
	struct nf_pack_id pack;         /* I */
	uint64_t start, end;            /* l while queued, then fixed */
	uint64_t filled_end;            /* l */
	uint8_t *buf;                   /* o */
	unsigned refs;                  /* l */
	enum get_state state;           /* l */
	enum nf_store_priority priority; /* l */
	bool meta;                      /* l */
	bool submitting;                /* l  nf_store_submit() has not returned: not to be cancelled */
	bool cancelling;                /* l */
	pthread_t canceller;            /* l */
	struct nf_store_op op;          /* o */
	struct nf_cache_io insert;      /* o */
};

/* A piece of a request, of one get. */
struct waiter {
	struct nf_list link;   /* l  of get->waiters, or of a list on its way to deliver() */
	struct nf_list of_req; /* l  of req->waiters while it can be cancelled */
	struct req *req;
	struct get *get; /* a reference, while on its way to deliver() */
	uint64_t start, end;
	int error;
};

struct req {
	struct nf_list link;    /* l  of f->reqs */
	struct nf_list waiters; /* l */
	struct nf_fetch *f;
	struct nf_fetch_io *io;
	enum nf_fetch_kind kind;
	unsigned pending; /* l  pieces, and one for the step under way */
	int error;        /* l */
	struct nf_cache_io read;
};

struct nf_fetch {
	struct nf_fetch_options o; /* I */
	struct nf_lock lock;
	struct nf_cond idle;
	struct nf_avl gets;                   /* l  by pack and start */
	struct nf_list reqs;                  /* l */
	struct nf_list queue[PRIORITIES];     /* l */
	struct nf_list windows;               /* l  least recently used first */
	size_t window_bytes;                  /* l */
	size_t bytes;                         /* l  in buffers */
	unsigned running;                     /* l */
	unsigned active;                      /* l  requests, gets, and a pump */
	bool pumping;                         /* l */
};

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
	for (int i = 0; i < PRIORITIES; i++)
		nf_list_init(&f->queue[i]);
	*out = f;
	return 0;
}

const struct nf_fetch_options *nf_fetch_options(const struct nf_fetch *f) { return &f->o; }

static void idle_step_locked(struct nf_fetch *f) NF_REQUIRES(f->lock)
{
	NF_ASSERT(f->active > 0);
	if (--f->active == 0)
		nf_cond_broadcast(&f->idle);
}

/* --- gets ---------------------------------------------------------------------- */

struct get_key {
	const struct nf_pack_id *pack;
	uint64_t start;
};

static int cmp_get(const void *key, const struct nf_avl_node *n)
{
	const struct get_key *k = key;
	const struct get *g = nf_container_of(n, const struct get, node);
	int r = memcmp(k->pack, &g->pack, sizeof g->pack);

	if (r)
		return r;
	return k->start < g->start ? -1 : k->start > g->start;
}

static struct get *get_of(struct nf_avl_node *n, const struct nf_pack_id *pack)
{
	struct get *g = n ? nf_container_of(n, struct get, node) : NULL;

	return g && memcmp(&g->pack, pack, sizeof *pack) == 0 ? g : NULL;
}

/* The get that holds POS or, if none does, the next one behind; *BEFORE is the one before POS that does not reach it. */
static struct get *find_get_locked(struct nf_fetch *f, const struct nf_pack_id *pack, uint64_t pos,
				   struct get **before) NF_REQUIRES(f->lock)
{
	struct get_key key = { pack, pos };
	struct nf_avl_node *n = nf_avl_lower(&f->gets, &key, cmp_get);
	struct get *at = get_of(n, pack);

	if (at && at->start == pos)
		n = nf_avl_prev(n);
	else
		n = n ? nf_avl_prev(n) : nf_avl_last(&f->gets);
	struct get *prev = get_of(n, pack);
	if (prev && prev->end > pos)
		return prev;
	*before = prev;
	return at;
}

static struct get *new_get(struct nf_fetch *f, const struct nf_pack_id *pack, uint64_t start, uint64_t end)
{
	struct get *g = calloc(1, sizeof *g);

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

static void put_get_locked(struct nf_fetch *f, struct get *g) NF_REQUIRES(f->lock)
{
	(void)f;
	NF_ASSERT(g->refs > 0);
	if (--g->refs)
		return;
	NF_ASSERT(!nf_avl_linked(&g->node) && nf_list_empty(&g->link) && nf_list_empty(&g->waiters));
	free(g->buf);
	free(g);
}

static void unlink_get_locked(struct nf_fetch *f, struct get *g) NF_REQUIRES(f->lock)
{
	if (nf_avl_linked(&g->node))
		nf_avl_erase(&f->gets, &g->node);
}

static void drop_window_locked(struct nf_fetch *f, struct get *g) NF_REQUIRES(f->lock)
{
	f->window_bytes -= (size_t)(g->end - g->start);
	nf_list_del(&g->link);
	unlink_get_locked(f, g);
	put_get_locked(f, g);
}

/* Takes over the reference of the get's life in flight. */
static void keep_window_locked(struct nf_fetch *f, struct get *g) NF_REQUIRES(f->lock)
{
	nf_list_add_tail(&f->windows, &g->link);
	f->window_bytes += (size_t)(g->end - g->start);
	while (f->window_bytes > WINDOWS_MAX_BYTES)
		drop_window_locked(f, nf_list_first(&f->windows, struct get, link));
}

static bool is_window_locked(const struct get *g) { return g->state == GET_FILLED && !nf_list_empty(&g->link); }

static void drop_windows_locked(struct nf_fetch *f, const struct nf_pack_id *pack, uint64_t start, uint64_t end)
	NF_REQUIRES(f->lock)
{
	nf_list_for_each_safe(g, &f->windows, struct get, link) {
		if (memcmp(&g->pack, pack, sizeof *pack) == 0 && g->start < end && start < g->end)
			drop_window_locked(f, g);
	}
}

void nf_fetch_free(struct nf_fetch *f)
{
	if (!f)
		return;
	nf_lock_take(&f->lock);
	while (f->active)
		nf_cond_wait(&f->idle, &f->lock);
	while (!nf_list_empty(&f->windows))
		drop_window_locked(f, nf_list_first(&f->windows, struct get, link));
	NF_ASSERT(nf_avl_empty(&f->gets) && nf_list_empty(&f->reqs) && f->bytes == 0);
	nf_lock_drop(&f->lock);
	nf_cond_deinit(&f->idle);
	nf_lock_deinit(&f->lock);
	free(f);
}

/* --- the end of requests ------------------------------------------------------- */

static void set_error_locked(struct req *rq, int error)
{
	if (error < 0 && rq->error == 0)
		rq->error = error;
}

/* Takes one off PENDING; a request that has none left goes to DONE. */
static void step_req_locked(struct req *rq, struct nf_list *done)
{
	NF_ASSERT(rq->pending > 0);
	if (--rq->pending == 0) {
		nf_list_del(&rq->link);
		nf_list_add_tail(done, &rq->link);
	}
}

static void finish_reqs(struct nf_fetch *f, struct nf_list *done)
{
	while (!nf_list_empty(done)) {
		struct req *rq = nf_list_first(done, struct req, link);
		struct nf_fetch_io *io = rq->io;
		nf_list_del(&rq->link);
		io->error = rq->error;
		free(rq);
		io->done(io);
		nf_lock_take(&f->lock);
		idle_step_locked(f);
		nf_lock_drop(&f->lock);
	}
}

static int copy_piece(const struct waiter *w)
{
	const struct get *g = w->get;
	struct nf_fetch_io *io = w->req->io;

	if (w->end > g->filled_end) {
		nf_count(NF_C_STORE_BAD, 1);
		return nf_fail(-NF_E_XFORM_TRUNCATED);
	}
	if (io->buf)
		memcpy((uint8_t *)io->buf + (w->start - io->offset_bytes), g->buf + (w->start - g->start),
		       (size_t)(w->end - w->start));
	return 0;
}

/* Gives each piece on the list its bytes (ERROR 0) or ERROR.  The copies are made without the lock: a piece here can
 * no longer be cancelled, its get is held by a reference. */
static void deliver(struct nf_fetch *f, struct nf_list *pieces, int error)
{
	struct nf_list done;

	if (nf_list_empty(pieces))
		return;
	nf_list_init(&done);
	nf_list_for_each(w, pieces, struct waiter, link)
		w->error = error < 0 ? error : copy_piece(w);
	nf_lock_take(&f->lock);
	nf_list_for_each_safe(w, pieces, struct waiter, link) {
		set_error_locked(w->req, w->error);
		step_req_locked(w->req, &done);
		put_get_locked(f, w->get);
		nf_list_del(&w->link);
		free(w);
	}
	nf_lock_drop(&f->lock);
	finish_reqs(f, &done);
}

/* Takes a waiter from where it can be cancelled to a list for deliver(). */
static void take_waiter_locked(struct waiter *w, struct nf_list *pieces)
{
	nf_list_del(&w->link);
	nf_list_del(&w->of_req);
	w->get->refs++;
	nf_list_add_tail(pieces, &w->link);
}

/* --- sending ------------------------------------------------------------------- */

static void get_done(struct nf_store_op *op);

static bool may_run_locked(const struct nf_fetch *f, const struct get *g)
{
	size_t bytes = f->bytes + (size_t)(g->end - g->start);

	if (g->priority == NF_STORE_FOREGROUND)
		return bytes <= GET_BYTES_MAX;
	return bytes <= GET_BYTES_MAX_BEHIND && f->running < GETS_MAX_BEHIND;
}

/* Takes the next get that may be sent off its queue. */
static struct get *next_get_locked(struct nf_fetch *f) NF_REQUIRES(f->lock)
{
	for (int i = 0; i < PRIORITIES; i++) {
		if (nf_list_empty(&f->queue[i]))
			continue;
		struct get *g = nf_list_first(&f->queue[i], struct get, link);
		if (!may_run_locked(f, g))
			return NULL;
		nf_list_del(&g->link);
		g->state = GET_RUNNING;
		g->submitting = true;
		g->refs++;
		f->bytes += (size_t)(g->end - g->start);
		f->running++;
		return g;
	}
	return NULL;
}

static void send_get(struct nf_fetch *f, struct get *g)
{
	size_t len = (size_t)(g->end - g->start);

	g->op = (struct nf_store_op){ .verb = NF_STORE_GET, .priority = g->priority, .offset_bytes = g->start,
				      .length_bytes = len, .whole = true, .done = get_done, .ctx = g };
	nf_pack_name(&g->pack, g->op.name);
	g->buf = malloc(len);
	g->op.buf = g->buf;
	if (g->buf) {
		nf_store_submit(f->o.store, &g->op);
	} else {
		g->op.error = -ENOMEM;
		get_done(&g->op);
	}
}

/* Sends what may be sent.  One thread at a time does, so that a store that ends its operations at once does not
 * make this recursive: the others leave it to that one, who looks again under the lock before it ends. */
static void pump(struct nf_fetch *f)
{
	struct get *g;

	nf_lock_take(&f->lock);
	if (!f->pumping) {
		f->pumping = true;
		f->active++;
		while ((g = next_get_locked(f))) {
			nf_lock_drop(&f->lock);
			send_get(f, g);
			nf_lock_take(&f->lock);
			g->submitting = false;
			put_get_locked(f, g);
		}
		f->pumping = false;
		idle_step_locked(f);
	}
	nf_lock_drop(&f->lock);
}

/* --- the end of gets ----------------------------------------------------------- */

/* The last step of a get that was sent. */
static void release_get(struct nf_fetch *f, struct get *g)
{
	nf_lock_take(&f->lock);
	f->bytes -= (size_t)(g->end - g->start);
	if (g->state == GET_FILLED && g->meta && !f->o.cache && nf_avl_linked(&g->node)) {
		keep_window_locked(f, g);
	} else {
		unlink_get_locked(f, g);
		put_get_locked(f, g);
	}
	nf_lock_drop(&f->lock);
	pump(f);
	nf_lock_take(&f->lock);
	idle_step_locked(f);
	nf_lock_drop(&f->lock);
}

/* A cache that cannot be written is merely absent: its error is the cache's to count. */
static void insert_done(struct nf_cache_io *io)
{
	struct get *g = io->ctx;

	release_get(g->f, g);
}

static void store_in_cache(struct nf_fetch *f, struct get *g)
{
	size_t len = g->op.transferred_bytes;
	bool at_end = len < g->op.length_bytes || g->start + len == g->op.size_bytes;

	if (!at_end)
		len = nf_round_down(len, NF_CACHE_UNIT);
	if (!f->o.cache || len == 0) {
		release_get(f, g);
		return;
	}
	g->insert = (struct nf_cache_io){ .pack = g->pack, .offset_bytes = g->start, .len_bytes = len,
					  .buf = g->buf, .at_end = at_end, .done = insert_done, .ctx = g };
	nf_cache_insert(f->o.cache, &g->insert);
}

static int get_error(const struct nf_store_op *op)
{
	return nf_fail(op->error == -NF_E_STORE_NOT_FOUND ? -NF_E_PACK_MISSING : op->error);
}

/* nf_store_cancel() may not be called once done has returned: wait for one under way, unless it is that very call
 * that brought us here. */
static void wait_canceller_locked(struct nf_fetch *f, struct get *g) NF_REQUIRES(f->lock)
{
	while (g->cancelling && !pthread_equal(g->canceller, pthread_self()))
		nf_cond_wait(&f->idle, &f->lock);
}

static void get_done(struct nf_store_op *op)
{
	struct get *g = op->ctx;
	struct nf_fetch *f = g->f;
	struct nf_list pieces;
	int r = get_error(op);

	nf_list_init(&pieces);
	nf_lock_take(&f->lock);
	wait_canceller_locked(f, g);
	f->running--;
	g->state = r < 0 ? GET_FAILED : GET_FILLED;
	g->filled_end = g->start + op->transferred_bytes;
	if (r < 0)
		unlink_get_locked(f, g);
	nf_list_for_each_safe(w, &g->waiters, struct waiter, link)
		take_waiter_locked(w, &pieces);
	nf_lock_drop(&f->lock);
	deliver(f, &pieces, r);
	if (r < 0)
		release_get(f, g);
	else
		store_in_cache(f, g);
}

/* --- planning ------------------------------------------------------------------ */

static void raise_priority_locked(struct nf_fetch *f, struct get *g, const struct req *rq) NF_REQUIRES(f->lock)
{
	if (rq->kind == NF_FETCH_META)
		g->meta = true;
	if (g->state != GET_QUEUED || g->priority <= rq->io->priority)
		return;
	g->priority = rq->io->priority;
	nf_list_del(&g->link);
	nf_list_add_tail(&f->queue[g->priority], &g->link);
}

/* Makes [start, end) of RQ a piece of G; of one that is there already, on READY. */
static int attach_locked(struct nf_fetch *f, struct req *rq, struct get *g, uint64_t start, uint64_t end,
			 struct nf_list *ready) NF_REQUIRES(f->lock)
{
	struct waiter *w = calloc(1, sizeof *w);

	if (!w)
		return nf_fail(-ENOMEM);
	*w = (struct waiter){ .req = rq, .get = g, .start = start, .end = end };
	nf_list_init(&w->of_req);
	rq->pending++;
	if (g->state == GET_FILLED) {
		g->refs++;
		nf_list_add_tail(ready, &w->link);
		if (is_window_locked(g)) {
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
static struct get *grow_locked(struct get *before, struct get *behind, uint64_t start, uint64_t end)
{
	if (before && before->state == GET_QUEUED && before->end == start &&
	    end - before->start <= GET_MAX_BYTES) {
		before->end = end;
		return before;
	}
	if (behind && behind->state == GET_QUEUED && behind->start == end &&
	    behind->end - start <= GET_MAX_BYTES) {
		behind->start = start; /* its place in the tree stays */
		return behind;
	}
	return NULL;
}

/* A get for a gap that begins at POS and is wanted up to END, between the neighbours. */
static struct get *fill_gap_locked(struct nf_fetch *f, struct req *rq, uint64_t pos, uint64_t end,
				   struct get *before, struct get *behind) NF_REQUIRES(f->lock)
{
	uint64_t round = rq->kind == NF_FETCH_META ? META_ROUND_BYTES : NF_CACHE_UNIT;
	uint64_t start = nf_round_down(pos, round);

	if (before && before->end > start)
		start = before->end;
	end = nf_round_up(NF_MIN(end, start + GET_MAX_BYTES), round);
	if (end - start > GET_MAX_BYTES)
		end = start + GET_MAX_BYTES;
	if (behind && behind->start < end)
		end = behind->start;
	struct get *g = grow_locked(before, behind, start, end);
	if (g)
		return g;
	g = new_get(f, &rq->io->pack, start, end);
	if (!g)
		return NULL;
	g->priority = rq->io->priority;
	struct get_key key = { &g->pack, g->start };
	struct nf_avl_node *other = nf_avl_add(&f->gets, &key, cmp_get, &g->node);
	NF_ASSERT(!other);
	nf_list_add_tail(&f->queue[g->priority], &g->link);
	f->active++;
	return g;
}

static int plan_locked(struct nf_fetch *f, struct req *rq, struct nf_list *ready) NF_REQUIRES(f->lock)
{
	const struct nf_fetch_io *io = rq->io;
	uint64_t pos = io->offset_bytes, end = pos + io->len_bytes;

	if (io->bypass_cache)
		drop_windows_locked(f, &io->pack, pos, end);
	while (pos < end) {
		struct get *before = NULL;
		struct get *g = find_get_locked(f, &io->pack, pos, &before);
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

static void ask_store(struct nf_fetch *f, struct req *rq)
{
	struct nf_list ready, done;

	nf_list_init(&ready);
	nf_list_init(&done);
	nf_lock_take(&f->lock);
	if (rq->error == 0)
		set_error_locked(rq, plan_locked(f, rq, &ready));
	step_req_locked(rq, &done);
	f->active++;
	nf_lock_drop(&f->lock);
	deliver(f, &ready, 0);
	finish_reqs(f, &done);
	pump(f);
	nf_lock_take(&f->lock);
	idle_step_locked(f);
	nf_lock_drop(&f->lock);
}

/* --- beginning ----------------------------------------------------------------- */

static void read_done(struct nf_cache_io *read)
{
	struct req *rq = read->ctx;
	struct nf_fetch *f = rq->f;
	struct nf_list done;

	if (read->error != 0) { /* a disk error is a miss too */
		ask_store(f, rq);
		return;
	}
	rq->io->from_cache = true;
	nf_list_init(&done);
	nf_lock_take(&f->lock);
	step_req_locked(rq, &done);
	nf_lock_drop(&f->lock);
	finish_reqs(f, &done);
}

void nf_fetch_start(struct nf_fetch *f, struct nf_fetch_io *io, enum nf_fetch_kind kind)
{
	struct req *rq = calloc(1, sizeof *rq);

	io->error = 0;
	io->from_cache = false;
	if (!rq || io->len_bytes == 0) {
		free(rq);
		io->error = io->len_bytes ? nf_fail(-ENOMEM) : 0;
		io->done(io);
		return;
	}
	*rq = (struct req){ .f = f, .io = io, .kind = kind, .pending = 1 };
	nf_list_init(&rq->waiters);
	nf_lock_take(&f->lock);
	nf_list_add_tail(&f->reqs, &rq->link);
	f->active++;
	nf_lock_drop(&f->lock);
	if (io->bypass_cache && f->o.cache)
		nf_cache_forget(f->o.cache, &io->pack, io->offset_bytes, io->len_bytes);
	if (io->bypass_cache || !f->o.cache || !io->buf ||
	    nf_cache_present(f->o.cache, &io->pack, io->offset_bytes, io->len_bytes) < io->len_bytes) {
		ask_store(f, rq);
		return;
	}
	rq->read = (struct nf_cache_io){ .pack = io->pack, .offset_bytes = io->offset_bytes,
					 .len_bytes = io->len_bytes, .buf = io->buf, .done = read_done, .ctx = rq };
	nf_cache_read(f->o.cache, &rq->read);
}

void nf_fetch_submit(struct nf_fetch *f, struct nf_fetch_io *io) { nf_fetch_start(f, io, NF_FETCH_DATA); }

void nf_fetch_forget(struct nf_fetch *f, const struct nf_pack_id *pack, uint64_t offset_bytes, size_t len_bytes)
{
	if (f->o.cache)
		nf_cache_forget(f->o.cache, pack, offset_bytes, len_bytes);
	nf_lock_take(&f->lock);
	drop_windows_locked(f, pack, offset_bytes, offset_bytes + len_bytes);
	nf_lock_drop(&f->lock);
}

/* --- cancelling ---------------------------------------------------------------- */

/* A get nobody waits for any more: gone from the queue, or cancelled on the store by cancel_gets().  One just being
 * submitted is left to end by itself. */
static void abandon_get_locked(struct nf_fetch *f, struct get *g, struct nf_list *doomed) NF_REQUIRES(f->lock)
{
	unlink_get_locked(f, g);
	nf_list_del(&g->link);
	if (g->state == GET_QUEUED) {
		put_get_locked(f, g);
		idle_step_locked(f);
		return;
	}
	NF_ASSERT(g->state == GET_RUNNING);
	if (g->submitting)
		return;
	g->refs++;
	g->cancelling = true;
	g->canceller = pthread_self();
	nf_list_add_tail(doomed, &g->link);
}

static void cancel_gets(struct nf_fetch *f, struct nf_list *doomed)
{
	nf_list_for_each(g, doomed, struct get, link)
		nf_store_cancel(f->o.store, &g->op);
	nf_lock_take(&f->lock);
	nf_list_for_each_safe(g, doomed, struct get, link) {
		g->cancelling = false;
		nf_list_del(&g->link);
		put_get_locked(f, g);
	}
	nf_cond_broadcast(&f->idle);
	nf_lock_drop(&f->lock);
}

static struct req *find_req_locked(struct nf_fetch *f, const struct nf_fetch_io *io) NF_REQUIRES(f->lock)
{
	nf_list_for_each(rq, &f->reqs, struct req, link) {
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
	struct req *rq = find_req_locked(f, io);
	if (rq) {
		rq->pending++;
		set_error_locked(rq, -NF_E_CANCELLED);
		nf_list_for_each_safe(w, &rq->waiters, struct waiter, of_req) {
			struct get *g = w->get;
			nf_list_del(&w->link);
			nf_list_del(&w->of_req);
			free(w);
			rq->pending--;
			if (nf_list_empty(&g->waiters))
				abandon_get_locked(f, g, &doomed);
		}
		step_req_locked(rq, &done);
	}
	nf_lock_drop(&f->lock);
	finish_reqs(f, &done);
	cancel_gets(f, &doomed);
	pump(f);
	nf_lock_take(&f->lock);
	idle_step_locked(f);
	nf_lock_drop(&f->lock);
}
