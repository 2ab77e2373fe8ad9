/* What was read is decrypted and put where it belongs.
 *
 *   block    |....WWWW|UUUUUUUU|........|zzzz      W written since, U uptodate, z past the end
 *   filled    ^^^^              ^^^^^^^^ ^^^^      only what is not there yet
 *
 * The plan of what goes where is made under the inode lock; it stays right while the request is in
 * APPLYING, because that keeps writers and gatherers out of its blocks.  A block of which nothing is
 * in memory is decrypted in place. */
#include "netfs/types.h"

#include "base/assert.h"
#include "base/counter.h"
#include "base/error.h"
#include "base/trace.h"

bool nf_applying_locked(struct nf_ictx_priv *p, uint64_t start, uint64_t end)
{
	nf_list_for_each(rq, &p->rreqs, struct nf_rreq, link) {
		if (rq->phase == NF_RREQ_APPLYING && rq->start < end && start < rq->end)
			return true;
	}
	return false;
}

static bool has_folio(const struct nf_rreq *rq, const struct nf_folio *f)
{
	for (unsigned i = 0; i < rq->nr_folios; i++)
		if (rq->folios[i] == f)
			return true;
	return false;
}

/* Where block I can be decrypted to directly: one folio, and nothing of the block but what is to be
 * read, with zeros behind. */
static uint8_t *place_of_block_locked(struct nf_rreq *rq, uint64_t start, uint64_t end)
{
	struct nf_spans it;
	struct nf_span sp;
	bool ok = true;
	const struct nf_folio *f = NULL;

	nf_spans_start(&it, rq->p, start, end);
	for (bool first = true; ok && nf_spans_next(&it, &sp); first = false) {
		if (first)
			f = sp.f;
		ok = f && sp.f == f && sp.kind != NF_SPAN_MEMORY &&
		     (sp.kind == NF_SPAN_STORED) == first;
		if (!first && sp.end != end)
			ok = false;
	}
	nf_spans_end(&it);
	return ok && has_folio(rq, f) ? f->mem + (start - f->pos_bytes) : NULL;
}

static void plan_block_locked(struct nf_rreq *rq, unsigned i)
{
	uint64_t bb = rq->p->ic->block_bytes, start = rq->blocks[i].index * bb;
	struct nf_spans it;
	struct nf_span sp;

	rq->in_place[i] = place_of_block_locked(rq, start, start + bb);
	nf_spans_start(&it, rq->p, start, start + bb);
	while (nf_spans_next(&it, &sp)) {
		if (sp.kind == NF_SPAN_MEMORY || !sp.f || !has_folio(rq, sp.f))
			continue;
		if (sp.kind == NF_SPAN_STORED && rq->in_place[i])
			continue;
		nf_plan_add(&rq->plan, (struct nf_plan_op){
			.kind = sp.kind == NF_SPAN_ZERO ? NF_PLAN_ZERO : NF_PLAN_COPY,
			.to = sp.f->mem + (sp.start - sp.f->pos_bytes),
			.from = rq->temp + (sp.start - start),
			.len = (size_t)(sp.end - sp.start) });
	}
	nf_spans_end(&it);
	rq->plan_end[i] = (uint32_t)rq->plan.nr;
}

/* A folio that was dropped gets nothing: whoever waits for its bytes will ask again. */
static bool is_looked_at_locked(struct nf_rreq *rq)
{
	for (unsigned i = 0; i < rq->nr_folios; i++)
		if (rq->folios[i]->mapped && nf_folio_is_unsettled(rq->folios[i]))
			return true;
	return false;
}

static bool may_apply_locked(struct nf_rreq *rq)
{
	return !is_looked_at_locked(rq) && !nf_writing_locked(rq->p, rq->start, rq->end) &&
	       !nf_gathering_locked(rq->p, rq->start, rq->end) &&
	       !nf_applying_locked(rq->p, rq->start, rq->end);
}

void nf_rreqs_apply_locked(struct nf_ictx_priv *p, struct nf_todo *todo)
{
	nf_list_for_each(rq, &p->rreqs, struct nf_rreq, link) {
		if (rq->phase != NF_RREQ_APPLY_WAIT || nf_rreq_is_private(rq))
			continue;
		if (rq->stale) {
			rq->stale = false;
			rq->phase = NF_RREQ_ISSUED;
			nf_list_add_tail(&todo->issue, &rq->todo);
			continue;
		}
		if (!may_apply_locked(rq))
			continue;
		if (!rq->temp)
			rq->temp = nf_record_alloc(p->ic->block_bytes);
		rq->phase = NF_RREQ_APPLYING;
		rq->plan.nr = 0;
		for (unsigned i = 0; i < rq->nr_blocks; i++)
			plan_block_locked(rq, i);
		nf_list_add_tail(&todo->apply, &rq->todo);
	}
}

/* One block to OUT, all of it. */
static int open_block(struct nf_rreq *rq, struct nf_block *b, uint8_t *out)
{
	struct nf_ictx *ic = rq->p->ic;
	uint32_t bb = ic->block_bytes;
	int r = 0;

	if (b->hole) {
		memset(out, 0, bb);
		return 0;
	}
	if (!b->sealed || b->plain_len > bb ||
	    (!ic->ops->decrypt_block && b->sealed_len < b->plain_len))
		return nf_fail(-NF_E_FORMAT_BAD);
	if (ic->ops->decrypt_block) {
		r = ic->ops->decrypt_block(rq, b, out);
	} else {
		memcpy(out, b->sealed, b->plain_len);
		nf_count(NF_C_READ_COPIED_BYTES, b->plain_len);
	}
	if (r < 0)
		return nf_fail(r);
	memset(out + b->plain_len, 0, bb - b->plain_len);
	return 0;
}

static int open_all(struct nf_rreq *rq)
{
	size_t from = 0;

	for (unsigned i = 0; i < rq->nr_blocks; i++) {
		uint8_t *out = rq->in_place[i] ? rq->in_place[i] : rq->temp;
		int r = open_block(rq, &rq->blocks[i], out);
		if (r < 0)
			return r;
		if (!nf_rreq_is_private(rq))
			nf_plan_run(&rq->plan, from, rq->plan_end[i]);
		from = rq->plan_end[i];
	}
	return 0;
}

static void mark_uptodate_locked(struct nf_rreq *rq)
{
	for (unsigned i = 0; i < rq->nr_folios; i++)
		if (rq->folios[i]->mapped)
			nf_folio_set_uptodate(rq->folios[i], rq->start, rq->end);
	for (unsigned i = 0; i < rq->nr_blocks && !rq->p->deinit_done; i++)
		if (rq->blocks[i].copy_to_cache)
			nf_copy_add_locked(rq->p, &rq->blocks[i]);
}

void nf_rreq_end(struct nf_rreq *rq)
{
	struct nf_ictx_priv *p = rq->p;
	struct nf_ictx *ic = p->ic;

	if (rq->inited && ic->ops->cleanup_rreq)
		ic->ops->cleanup_rreq(rq);
	nf_ic_lock(p);
	nf_list_del(&rq->link);
	if (rq->fill)
		nf_wreq_filled_locked(rq->fill, rq);
	else if (rq->own)
		nf_own_came_locked(rq);
	else if (rq->error)
		nf_readers_fail_locked(p, rq->start, rq->end, rq->error);
	for (unsigned i = 0; i < rq->nr_folios; i++)
		nf_folio_unpin(rq->folios[i]);
	rq->nr_folios = 0;
	nf_ic_unlock(p, NULL);
	atomic_fetch_sub(&p->lib->nr_requests, 1);
	nf_rreq_free(rq);
	nf_ic_put(p);
}

/* No lock held; RQ is in APPLYING, or is private. */
void nf_rreq_apply(struct nf_rreq *rq)
{
	struct nf_ictx_priv *p = rq->p;

	rq->error = open_all(rq);
	if (rq->error == -EAGAIN && nf_rreq_read_again(rq))
		return;
	if (!nf_rreq_is_private(rq)) {
		nf_ic_lock(p);
		bool again = rq->stale;
		rq->phase = again ? NF_RREQ_APPLY_WAIT : NF_RREQ_ISSUED;
		if (!again && rq->error == 0)
			mark_uptodate_locked(rq);
		nf_ic_unlock(p, NULL);
		if (again)
			return;
	}
	nf_rreq_end(rq);
}

void nf_readers_fail_locked(struct nf_ictx_priv *p, uint64_t start, uint64_t end, int error)
{
	nf_list_for_each(r, &p->readers, struct nf_reader, link) {
		const struct nf_io *io = r->io;
		if (io->pos_bytes < end && start < io->pos_bytes + io->len_bytes)
			r->error = error;
	}
}
