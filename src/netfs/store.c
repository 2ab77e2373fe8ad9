/* A write request after it has its bytes: sealed, sent to each stream, collected, ended.
 *
 *   seal every block -> streams -> subrequests, all at once -> last one ended: verdict()
 *     stored    write_stored(), regions COMPLETE
 *     failed    nobody wrote over the blocks for a younger group: regions DIRTY again,
 *                 merged with what was written since
 *               somebody did: memory has changed, the sealed copy is all there is of the older
 *                 group: it is kept and sent again
 *
 * A stream that fails does not stop the others.  Optional ones (caches) are never tried again; write_stored()
 * learns that they failed. */
#include "netfs/types.h"

#include "base/assert.h"
#include "base/counter.h"
#include "base/error.h"
#include "base/trace.h"

enum { RESEND_WAITS = 2 }; /* of retry_ns */

static void finish_request(struct nf_wreq *wq);
static void issue_streams(struct nf_wreq *wq);

static void fail(struct nf_wreq *wq, int error)
{
	nf_lock_take(&wq->sub_lock);
	if (!wq->error)
		wq->error = error;
	nf_lock_drop(&wq->sub_lock);
}

static int seal_block(struct nf_wreq *wq, struct nf_block *b)
{
	const struct nf_netfs_ops *ops = wq->p->ic->ops;
	int r = 0;

	NF_ASSERT(b->plain_len && b->plain_len <= wq->p->ic->block_bytes);
	if (ops->compress_block)
		r = ops->compress_block(wq, b);
	if (r == 0 && ops->encrypt_block)
		r = ops->encrypt_block(wq, b);
	if (r < 0)
		return nf_fail(r);
	if (!b->sealed) {
		b->sealed = b->plain;
		b->sealed_len = b->plain_len;
	}
	return 0;
}

int nf_wreq_prepare(struct nf_wreq *wq)
{
	const struct nf_netfs_ops *ops = wq->p->ic->ops;
	int r = 0;

	if (!wq->inited && ops->init_wreq)
		r = ops->init_wreq(wq, wq->p->ic);
	if (r < 0)
		return nf_fail(r);
	wq->inited = true;
	for (unsigned i = 0; i < wq->nr_blocks && r == 0; i++)
		r = seal_block(wq, &wq->blocks[i]);
	if (r == 0)
		r = ops->add_write_streams ? ops->add_write_streams(wq)
					   : nf_wreq_add_stream(wq, "store", NF_STREAM_REQUIRED, 0);
	wq->prepared = r == 0;
	return r;
}

int nf_wreq_add_stream(struct nf_wreq *wq, const char *name, enum nf_stream_kind kind,
		       unsigned max_blocks)
{
	if (wq->nr_streams == NF_STREAMS_MAX)
		return nf_fail(-ENOSPC);
	struct nf_wstream *st = &wq->streams[wq->nr_streams++];
	*st = (struct nf_wstream){ .name = name, .kind = kind, .max_blocks = max_blocks };
	nf_list_init(&st->subs);
	return 0;
}

/* Whether a younger group has written over blocks of WQ, or is about to. */
static bool overwritten_locked(const struct nf_wreq *wq)
{
	struct nf_ictx_priv *p = wq->p;
	uint64_t bb = p->ic->block_bytes;

	for (unsigned i = 0; i < wq->nr_blocks && !wq->copy; i++) {
		uint64_t start = wq->blocks[i].index * bb, end = start + bb;
		const struct nf_region *rg = nf_regions_at(&p->dirty, start);
		for (; rg && rg->start < end; rg = nf_regions_next(rg))
			if (rg->group != wq->group)
				return true;
		nf_list_for_each(a, &p->active, struct nf_region, link)
			if (a->group != wq->group && a->reserved_start < end &&
			    start < a->reserved_end)
				return true;
	}
	return false;
}

/* An invalidation came before the request was sent: what it is made of is old.  But where a younger group has
 * written since, the copy is all there is of the older one: it is sent as it is. */
static bool give_back_if_stale(struct nf_wreq *wq)
{
	struct nf_todo todo;

	nf_todo_init(&todo);
	nf_ic_lock(wq->p);
	bool stale = wq->stale && !wq->cancelled && !overwritten_locked(wq);
	if (stale) {
		nf_wreq_redirty_locked(wq);
		nf_wreq_end_locked(wq, &todo);
	}
	nf_ic_unlock_todo(wq->p, &todo);
	return stale;
}

/* No lock held, on the pool. */
void nf_wreq_issue(struct nf_wreq *wq, int r)
{
	if (r == 0 && give_back_if_stale(wq))
		return;
	if (r < 0)
		fail(wq, r);
	atomic_store(&wq->pending, 1);
	if (r == 0)
		issue_streams(wq);
	if (atomic_fetch_sub(&wq->pending, 1) == 1)
		finish_request(wq);
}

bool nf_wreq_is_copy(const struct nf_wreq *wq) { return wq->copy; }

/* --- streams -------------------------------------------------------------------------------- */

static bool stream_failed(struct nf_wreq *wq, const struct nf_wstream *st)
{
	nf_lock_take(&wq->sub_lock);
	bool failed = st->error;
	nf_lock_drop(&wq->sub_lock);
	return failed;
}

static void fail_stream(struct nf_wreq *wq, struct nf_wstream *st, int error)
{
	nf_lock_take(&wq->sub_lock);
	if (!st->error)
		st->error = error;
	nf_lock_drop(&wq->sub_lock);
}

void nf_subreq_blocks(struct nf_subreq *sq, int (*fn)(struct nf_ictx *ic, struct nf_block *b))
{
	int r = 0;

	for (unsigned i = 0; i < sq->nr_blocks && r == 0; i++)
		r = fn(sq->ic, &sq->blocks[i]);
	nf_subreq_terminated(sq, r);
}

static void issue_sub(struct nf_sub *sub)
{
	const struct nf_netfs_ops *ops = sub->sq.ic->ops;

	if (ops->issue_write)
		ops->issue_write(&sub->sq);
	else
		nf_subreq_blocks(&sub->sq, ops->write_block);
}

static int issue_one(struct nf_wreq *wq, unsigned stream, unsigned first, unsigned nr)
{
	struct nf_sub *sub = calloc(1, sizeof *sub);

	if (!sub)
		return nf_fail(-ENOMEM);
	nf_list_add_tail(&wq->streams[stream].subs, &sub->link);
	sub->sq = (struct nf_subreq){ .dir = NF_SUBREQ_WRITE, .ic = wq->p->ic, .wreq = wq,
				      .stream = stream, .blocks = &wq->blocks[first],
				      .nr_blocks = nr };
	atomic_fetch_add(&wq->pending, 1);
	issue_sub(sub);
	return 0;
}

static void issue_streams(struct nf_wreq *wq)
{
	for (unsigned s = 0; s < wq->nr_streams; s++) {
		struct nf_wstream *st = &wq->streams[s];
		unsigned most = st->max_blocks ? st->max_blocks : wq->nr_blocks;
		if (st->stored || (wq->copy && st->kind != NF_STREAM_OPTIONAL))
			continue;
		for (unsigned i = 0; i < wq->nr_blocks && !stream_failed(wq, st); i += most) {
			unsigned left = wq->nr_blocks - i;
			int r = issue_one(wq, s, i, NF_MIN(left, most));
			if (r < 0)
				fail_stream(wq, st, r);
		}
	}
}

static void again_work(struct nf_work *w)
{
	struct nf_sub *sub = nf_container_of(w, struct nf_sub, work);

	issue_sub(sub);
}

static void again_timer(struct nf_timer *t)
{
	struct nf_sub *sub = nf_container_of(t, struct nf_sub, timer);

	nf_work_init(&sub->work, again_work);
	nf_pool_add(sub->sq.wreq->p->lib->pool, &sub->work);
}

static bool try_later(struct nf_wreq *wq, struct nf_sub *sub, int error)
{
	unsigned attempt = sub->sq.attempt;

	if ((error != -EAGAIN && error != -NF_E_STORE_BUSY) || attempt + 1 >= NF_ATTEMPTS_MAX)
		return false;
	if (wq->streams[sub->sq.stream].kind == NF_STREAM_OPTIONAL)
		return false;
	sub->sq.attempt++;
	nf_count(NF_C_WRITE_RETRY, 1);
	nf_trace(REQ, "R=%08x later stream=%u attempt=%u", wq->id, sub->sq.stream, sub->sq.attempt);
	nf_timer_init(&sub->timer, again_timer);
	nf_timer_arm(wq->p->lib->timers, &sub->timer, nf_later_ns(wq->p->lib, attempt));
	return true;
}

void nf_wreq_sub_terminated(struct nf_wreq *wq, struct nf_sub *sub, int error)
{
	struct nf_wstream *st = &wq->streams[sub->sq.stream];

	if (error < 0 && try_later(wq, sub, error))
		return;
	nf_trace(REQ, "R=%08x stream=%u terminated err=%d", wq->id, sub->sq.stream, error);
	if (error < 0)
		fail_stream(wq, st, error);
	if (atomic_fetch_sub(&wq->pending, 1) == 1)
		finish_request(wq);
}

void nf_subreq_terminated(struct nf_subreq *sq, int error)
{
	struct nf_sub *sub = nf_container_of(sq, struct nf_sub, sq);

	if (sq->dir == NF_SUBREQ_READ)
		nf_rreq_terminated(sq->rreq, error);
	else
		nf_wreq_sub_terminated(sq->wreq, sub, error);
}

/* --- the verdict ----------------------------------------------------------------------------- */

static bool is_unreachable(int error)
{
	switch (error) {
	case -NF_E_OFFLINE:
	case -NF_E_TIMEOUT:
	case -ENETUNREACH:
	case -EHOSTUNREACH:
	case -ECONNREFUSED:
		return true;
	default:
		return false;
	}
}

/* The table at nf_wreq_add_stream(): 0 if the request counts as stored, otherwise why not.  Every subrequest has
 * ended. */
static int verdict(struct nf_wreq *wq)
{
	int unreachable = 0;
	bool standby = false;

	for (unsigned s = 0; s < wq->nr_streams; s++) {
		struct nf_wstream *st = &wq->streams[s];
		nf_count(NF_C_WRITE_STREAM_FAILED, st->error != 0);
		if (st->kind == NF_STREAM_STANDBY && !st->error)
			standby = true;
		if (st->kind != NF_STREAM_REQUIRED || !st->error)
			continue;
		if (!is_unreachable(st->error))
			return st->error;
		unreachable = st->error;
	}
	return standby ? 0 : unreachable;
}

int nf_wreq_stream_error(const struct nf_wreq *wq, unsigned stream)
{
	return stream < wq->nr_streams ? wq->streams[stream].error : -ENOENT;
}

/* --- the end ---------------------------------------------------------------------------------- */

static void free_subs(struct nf_wreq *wq)
{
	for (unsigned s = 0; s < wq->nr_streams; s++) {
		nf_list_for_each_safe(sub, &wq->streams[s].subs, struct nf_sub, link) {
			nf_list_del(&sub->link);
			free(sub);
		}
	}
}

static void drop_sealed(struct nf_wreq *wq)
{
	for (unsigned i = 0; i < wq->nr_blocks; i++) {
		struct nf_block *b = &wq->blocks[i];
		if (b->owned)
			free(b->sealed);
		b->sealed = NULL;
		b->owned = false;
	}
}

void nf_wreq_free(struct nf_wreq *wq)
{
	struct nf_ictx_priv *p = wq->p;

	if (wq->inited && p->ic->ops->cleanup_wreq)
		p->ic->ops->cleanup_wreq(wq);
	drop_sealed(wq);
	free_subs(wq);
	nf_plan_deinit(&wq->plan);
	nf_memory_uncharge(p->lib->mem, wq->charged_bytes, wq->charge);
	atomic_fetch_sub(&p->lib->nr_requests, 1);
	nf_lock_deinit(&wq->sub_lock);
	free(wq->blocks);
	free(wq->claims);
	free(wq->plain);
	free(wq->in_place);
	free(wq->folios);
	free(wq);
	nf_ic_put(p);
}

void nf_wreq_end_locked(struct nf_wreq *wq, struct nf_todo *todo)
{
	struct nf_ictx_priv *p = wq->p;

	for (unsigned i = 0; i < wq->nr_blocks; i++)
		nf_avl_erase(&p->claims, &nf_claim_at_locked(p, wq->blocks[i].index)->node);
	NF_ASSERT(nf_list_empty(&wq->regions));
	nf_list_del(&wq->link);
	p->nr_wreqs--;
	if (wq->group)
		wq->group->nr_requests--;
	nf_list_add_tail(&todo->ended, &wq->todo);
}

void nf_wreq_redirty_locked(struct nf_wreq *wq)
{
	struct nf_ictx_priv *p = wq->p;

	while (!nf_list_empty(&wq->regions)) {
		struct nf_region *rg = nf_list_first(&wq->regions, struct nf_region, link);
		nf_list_del(&rg->link);
		nf_regions_remove(&p->flushing, rg);
		nf_regions_redirty(&p->dirty, rg, &rg->group->dirty, &p->region_ops);
	}
	/* What was cut off or punched meanwhile is not dirty again. */
	for (unsigned i = 0; i < wq->nr_blocks; i++) {
		uint64_t start = wq->blocks[i].index * p->ic->block_bytes;
		nf_folios_recheck_locked(p, start, start + p->ic->block_bytes, false);
	}
}

void nf_wreq_failed_locked(struct nf_wreq *wq, int error)
{
	struct nf_ictx_priv *p = wq->p;
	uint64_t bb = p->ic->block_bytes;

	nf_trace(REQ, "R=%08x failed err=%d", wq->id, error);
	if (wq->copy)
		return;
	for (unsigned i = 0; i < wq->nr_blocks; i++)
		nf_waiters_fail_locked(p, wq->group->number, wq->blocks[i].index * bb,
				       (wq->blocks[i].index + 1) * bb, error);
	nf_error_note_locked(p, error);
	nf_back_off_locked(p);
}

static void complete_regions_locked(struct nf_wreq *wq)
{
	struct nf_ictx_priv *p = wq->p;
	uint64_t bb = p->ic->block_bytes;

	while (!nf_list_empty(&wq->regions)) {
		struct nf_region *rg = nf_list_first(&wq->regions, struct nf_region, link);
		nf_list_del(&rg->link);
		nf_regions_remove(&p->flushing, rg);
		nf_region_move(rg, NF_REGION_COMPLETE, "complete");
		nf_region_free(rg);
	}
	for (unsigned i = 0; i < wq->nr_blocks; i++) {
		uint64_t start = wq->blocks[i].index * bb;
		nf_reads_stale_locked(p, start, start + bb);
		nf_folios_recheck_locked(p, start, start + bb, false);
	}
	p->failures = 0;
}

static void resend_work(struct nf_work *w)
{
	struct nf_wreq *wq = nf_container_of(w, struct nf_wreq, work);
	int r = 0;

	free_subs(wq);
	for (unsigned s = 0; s < wq->nr_streams; s++) {
		struct nf_wstream *st = &wq->streams[s];
		st->stored = !st->error || st->kind == NF_STREAM_OPTIONAL;
		st->error = st->stored ? st->error : 0;
	}
	if (!wq->prepared) {
		drop_sealed(wq);
		wq->nr_streams = 0;
		r = nf_wreq_prepare(wq);
	}
	if (r < 0)
		fail(wq, r);
	atomic_store(&wq->pending, 1);
	if (r == 0)
		issue_streams(wq);
	if (atomic_fetch_sub(&wq->pending, 1) == 1)
		finish_request(wq);
}

static void resend_timer(struct nf_timer *t)
{
	struct nf_wreq *wq = nf_container_of(t, struct nf_wreq, timer);

	nf_work_init(&wq->work, resend_work);
	nf_pool_add(wq->p->lib->pool, &wq->work);
}

/* True if WQ was taken care of: it will be sent again. */
static bool resend_locked(struct nf_wreq *wq)
{
	if (wq->cancelled || !wq->error || !overwritten_locked(wq))
		return false;
	nf_wreq_failed_locked(wq, wq->error);
	wq->error = 0;
	wq->phase = NF_WREQ_RESEND;
	nf_timer_init(&wq->timer, resend_timer);
	nf_timer_arm(wq->p->lib->timers, &wq->timer, RESEND_WAITS * wq->p->lib->retry_ns);
	return true;
}

/* No lock held; every subrequest has ended. */
static void finish_request(struct nf_wreq *wq)
{
	struct nf_ictx_priv *p = wq->p;
	struct nf_todo todo;

	nf_todo_init(&todo);
	nf_ic_lock(p);
	if (!wq->error)
		wq->error = wq->copy ? -ECANCELED : verdict(wq); /* a copy ends here, whatever became of it */
	bool stored = !wq->cancelled && !wq->error;
	/* Looking for younger writers and giving the regions back is one step. */
	if (!stored && !resend_locked(wq)) {
		if (!wq->cancelled)
			nf_wreq_failed_locked(wq, wq->error);
		nf_wreq_redirty_locked(wq);
		nf_wreq_end_locked(wq, &todo);
	}
	nf_ic_unlock_todo(p, &todo);
	if (!stored)
		return;
	if (p->ic->ops->write_stored)
		p->ic->ops->write_stored(wq);
	nf_todo_init(&todo);
	nf_ic_lock(p);
	complete_regions_locked(wq);
	nf_wreq_end_locked(wq, &todo);
	nf_ic_unlock_todo(p, &todo);
}

void **nf_wreq_priv(struct nf_wreq *wq) { return &wq->priv; }
struct nf_ictx *nf_rreq_ictx(const struct nf_rreq *rq) { return rq->p->ic; }
struct nf_ictx *nf_wreq_ictx(const struct nf_wreq *wq) { return wq->p->ic; }
uint64_t nf_wreq_group(const struct nf_wreq *wq) { return wq->group_number; }

struct nf_block *nf_wreq_blocks(struct nf_wreq *wq, unsigned *nr)
{
	*nr = wq->nr_blocks;
	return wq->blocks;
}
