/* Read requests: made, sent, sent again.
 *
 *   new -> ISSUED -> terminated -> APPLY_WAIT -> APPLYING -> gone
 *             ^---- later, or stale ----+------------+
 *
 * A request has its folios pinned from the start: what comes has a place.  A request that an
 * invalidation or a completed store made stale is sent again before anything of it is used. */
#include "netfs/types.h"

#include "base/assert.h"
#include "base/counter.h"
#include "base/error.h"
#include "base/trace.h"

#include <inttypes.h>

bool nf_being_read_locked(struct nf_ictx_priv *p, uint64_t start, uint64_t end)
{
	nf_list_for_each(rq, &p->rreqs, struct nf_rreq, link)
		if (!nf_rreq_is_private(rq) && rq->start < end && start < rq->end)
			return true;
	return false;
}

static struct nf_rreq *rreq_new(struct nf_ictx_priv *p, uint64_t first, unsigned nr)
{
	struct nf_rreq *rq = calloc(1, sizeof *rq);
	size_t folios = (size_t)nr * p->ic->block_bytes / NF_PC_PAGE_BYTES;

	if (!rq)
		return NULL;
	rq->p = p;
	rq->nr_blocks = nr;
	nf_list_init(&rq->link);
	nf_list_init(&rq->todo);
	rq->blocks = calloc(nr, sizeof *rq->blocks);
	rq->folios = calloc(folios, sizeof(struct nf_folio *));
	rq->plan_end = calloc(nr, sizeof *rq->plan_end);
	rq->in_place = calloc(nr, sizeof(uint8_t *));
	if (!rq->blocks || !rq->folios || !rq->plan_end || !rq->in_place) {
		nf_rreq_free(rq);
		return NULL;
	}
	for (unsigned i = 0; i < nr; i++)
		rq->blocks[i].index = first + i;
	rq->id = atomic_fetch_add(&p->lib->last_request, 1) + 1;
	return rq;
}

static void drop_sealed(struct nf_rreq *rq)
{
	for (unsigned i = 0; i < rq->nr_blocks; i++) {
		struct nf_block *b = &rq->blocks[i];
		if (b->owned)
			free(b->sealed);
		*b = (struct nf_block){ .index = b->index };
	}
}

void nf_rreq_free(struct nf_rreq *rq)
{
	if (rq->blocks)
		drop_sealed(rq);
	for (unsigned i = 0; i < rq->nr_folios; i++)
		nf_folio_unpin(rq->folios[i]);
	nf_plan_deinit(&rq->plan);
	free(rq->temp);
	free(rq->blocks);
	free(rq->folios);
	free(rq->plan_end);
	free(rq->in_place);
	free(rq);
}

static void rreq_add_locked(struct nf_rreq *rq, struct nf_todo *todo)
{
	struct nf_ictx_priv *p = rq->p;

	rq->start = rq->blocks[0].index * p->ic->block_bytes;
	rq->end = rq->start + (uint64_t)rq->nr_blocks * p->ic->block_bytes;
	nf_ic_get(p);
	nf_list_add_tail(&p->rreqs, &rq->link);
	rq->phase = NF_RREQ_ISSUED;
	atomic_fetch_add(&p->lib->nr_requests, 1);
	nf_lib_memory_used(p->lib);
	nf_count(NF_C_READ_REQUESTS, 1);
	if (rq->ahead)
		nf_count(NF_C_READ_AHEAD_BYTES, rq->end - rq->start);
	nf_trace(REQ, "R=%08x new read%s%s %" PRIx64 "-%" PRIx64, rq->id, rq->ahead ? " ahead" : "",
		 rq->fill ? " fill" : rq->own ? " own" : "", rq->start, rq->end);
	nf_list_add_tail(&todo->issue, &rq->todo);
}

/* Folios for blocks [first, first + nr); how many of the blocks got them. */
static unsigned pin_folios_locked(struct nf_rreq *rq, uint64_t first, unsigned nr)
{
	struct nf_ictx_priv *p = rq->p;
	uint64_t bb = p->ic->block_bytes, pos = first * bb, end = (first + nr) * bb;
	unsigned order = 0;

	while (order < NF_PC_ORDER_MAX && ((uint64_t)NF_PC_PAGE_BYTES << (order + 1)) <= end - pos)
		order++;
	while (pos < end) {
		struct nf_folio *f = nf_mapping_get(&p->mapping, pos, order);
		if (!f)
			break;
		rq->folios[rq->nr_folios++] = f;
		pos = nf_folio_end(f);
	}
	pos = NF_MIN(pos, end);
	return (unsigned)((pos - first * bb) / bb);
}

/* One request for blocks from FIRST of a run of NR, as many as one may have; *DONE of them are in it. */
static int read_run_locked(struct nf_ictx_priv *p, struct nf_todo *todo, uint64_t first, unsigned nr,
			   bool ahead, unsigned *done)
{
	unsigned most = NF_MAX(NF_READ_REQUEST_BYTES / p->ic->block_bytes, 1u), mine = NF_MIN(nr, most);
	struct nf_rreq *rq = rreq_new(p, first, mine);

	if (!rq)
		return -ENOMEM;
	nf_memory_quiet(true);
	rq->nr_blocks = pin_folios_locked(rq, first, mine);
	if (rq->nr_blocks == 0) {
		nf_rreq_free(rq);
		nf_memory_quiet(false);
		return -ENOMEM;
	}
	nf_memory_quiet(false);
	rq->ahead = ahead;
	/* With memory short the rest may never be asked for. */
	rq->more_blocks = rq->nr_blocks == mine ? nr - mine : 0;
	rreq_add_locked(rq, todo);
	*done = rq->nr_blocks;
	return 0;
}

/* The next block at or after START with bytes that must be read and are not being read. */
static uint64_t next_missing_locked(struct nf_ictx_priv *p, uint64_t start, uint64_t end)
{
	uint64_t bb = p->ic->block_bytes;
	struct nf_spans it;
	struct nf_span sp;
	uint64_t at = end;

	nf_spans_start(&it, p, start, end);
	while (at == end && nf_spans_next(&it, &sp)) {
		if (sp.kind != NF_SPAN_STORED)
			continue;
		uint64_t pos = sp.start;
		while (pos < sp.end && at == end) {
			uint64_t block = pos & ~(bb - 1);
			if (!nf_being_read_locked(p, block, block + bb))
				at = block;
			pos = block + bb;
		}
	}
	nf_spans_end(&it);
	return at;
}

int nf_read_missing_locked(struct nf_ictx_priv *p, struct nf_todo *todo, uint64_t start,
			   uint64_t end, bool ahead)
{
	uint64_t bb = p->ic->block_bytes;
	uint64_t at = next_missing_locked(p, start, end);
	int nr = 0;

	while (at < end) {
		uint64_t run_end = at + bb;
		while (run_end < end &&
		       next_missing_locked(p, run_end, NF_MIN(run_end + bb, end)) == run_end)
			run_end += bb;
		while (at < run_end) {
			unsigned done = 0;
			int r = read_run_locked(p, todo, at / bb, (unsigned)((run_end - at) / bb), ahead, &done);
			if (r < 0)
				return r;
			at += done * bb;
			nr++;
		}
		at = next_missing_locked(p, at, NF_MAX(end, at));
	}
	return nr;
}

struct nf_rreq *nf_rreq_new_fill_locked(struct nf_wreq *wq, unsigned first, unsigned nr,
					struct nf_todo *todo)
{
	struct nf_rreq *rq = rreq_new(wq->p, wq->blocks[first].index, nr);

	if (!rq)
		return NULL;
	rq->fill = wq;
	for (unsigned i = 0; i < nr; i++)
		rq->in_place[i] = wq->blocks[first + i].plain;
	rreq_add_locked(rq, todo);
	nf_count(NF_C_READ_FILL, nr);
	return rq;
}

struct nf_rreq *nf_rreq_new_own_locked(struct nf_reader *r, uint64_t first, unsigned nr, struct nf_todo *todo)
{
	struct nf_ictx_priv *p = r->io->ic->priv;
	const struct nf_io_priv *own = r->io->priv;
	uint64_t bb = p->ic->block_bytes;
	struct nf_rreq *rq = rreq_new(p, first, nr);

	if (!rq)
		return NULL;
	rq->own = r;
	for (unsigned i = 0; i < nr; i++)
		rq->in_place[i] = own->own + ((first + i) * bb - own->own_start);
	rreq_add_locked(rq, todo);
	nf_count(NF_C_READ_OWN, nr);
	return rq;
}

static void blocks_work(struct nf_work *w)
{
	struct nf_subreq *sq = &nf_container_of(w, struct nf_rreq, sub.work)->sub.sq;

	nf_subreq_blocks(sq, sq->ic->ops->read_block);
}

/* No lock held. */
void nf_rreq_issue(struct nf_rreq *rq)
{
	struct nf_ictx *ic = rq->p->ic;
	struct nf_subreq *sq = &rq->sub.sq;
	int r = 0;

	drop_sealed(rq);
	if (!rq->inited && ic->ops->init_rreq)
		r = ic->ops->init_rreq(rq, ic);
	if (r < 0) {
		nf_rreq_terminated(rq, r);
		return;
	}
	rq->inited = true;
	sq->dir = NF_SUBREQ_READ;
	sq->ic = ic;
	sq->rreq = rq;
	sq->blocks = rq->blocks;
	sq->nr_blocks = rq->nr_blocks;
	sq->read_ahead = rq->ahead;
	sq->more_blocks = rq->more_blocks;
	if (ic->ops->issue_read) {
		ic->ops->issue_read(sq);
		return;
	}
	nf_work_init(&rq->sub.work, blocks_work);
	nf_pool_add(rq->p->lib->pool, &rq->sub.work);
}

static void issue_work(struct nf_work *w)
{
	nf_rreq_issue(nf_container_of(w, struct nf_rreq, sub.work));
}

static void issue_timer(struct nf_timer *t)
{
	struct nf_rreq *rq = nf_container_of(t, struct nf_rreq, sub.timer);

	nf_work_init(&rq->sub.work, issue_work);
	nf_pool_add(rq->p->lib->pool, &rq->sub.work);
}

static bool try_later(struct nf_rreq *rq, int error)
{
	unsigned attempt = rq->sub.sq.attempt;

	if ((error != -EAGAIN && error != -NF_E_STORE_BUSY) || attempt + 1 >= NF_ATTEMPTS_MAX)
		return false;
	rq->sub.sq.attempt++;
	nf_trace(REQ, "R=%08x later attempt=%u", rq->id, rq->sub.sq.attempt);
	nf_timer_init(&rq->sub.timer, issue_timer);
	nf_timer_arm(rq->p->lib->timers, &rq->sub.timer, nf_later_ns(rq->p->lib, attempt));
	return true;
}

/* What came could not be opened and is worth asking for again (decrypt_block said -EAGAIN). */
bool nf_rreq_read_again(struct nf_rreq *rq)
{
	struct nf_ictx_priv *p = rq->p;

	if (rq->sub.sq.attempt + 1 >= NF_ATTEMPTS_MAX)
		return false;
	rq->sub.sq.attempt++;
	rq->error = 0;
	nf_ic_lock(p);
	rq->phase = NF_RREQ_ISSUED;
	nf_ic_unlock(p, NULL);
	nf_work_init(&rq->sub.work, issue_work);
	nf_pool_add(p->lib->pool, &rq->sub.work);
	return true;
}

static void private_work(struct nf_work *w) { nf_rreq_apply(nf_container_of(w, struct nf_rreq, work)); }

void nf_rreq_terminated(struct nf_rreq *rq, int error)
{
	struct nf_ictx_priv *p = rq->p;

	if (error < 0 && try_later(rq, error))
		return;
	nf_trace(REQ, "R=%08x terminated err=%d", rq->id, error);
	if (nf_rreq_is_private(rq) && error == 0) {
		nf_work_init(&rq->work, private_work);
		nf_pool_add(p->lib->pool, &rq->work);
		return;
	}
	rq->error = error;
	if (error < 0) {
		nf_rreq_end(rq);
		return;
	}
	nf_ic_lock(p);
	rq->phase = NF_RREQ_APPLY_WAIT;
	nf_ic_unlock(p, NULL);
}

void **nf_rreq_priv(struct nf_rreq *rq) { return &rq->priv; }
