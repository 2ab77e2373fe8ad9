/* A write request gets its bytes.
 *
 *   FILLING     what is neither in memory nor zeros is read into the plain buffers
 *   WAITING     until no writer and no reader is busy in the blocks
 *   GATHERING   memory is copied over it; missing pages of the folios get what was read,
 *               so that all pages of the blocks are uptodate afterwards
 *   STORING     the request owns a stable copy, writers may go on
 *
 *   plain buffer  |rrrrrrrrrrrrrrrr|    folio  |....ww..........|     r read, w written
 *   gathered      |rrrrwwrrrrrrrrrr|           |rrrrwwrrrrrrrrrr|
 *
 * The regions become FLUSHING when gathering begins: until then they are dirty as any other. */
#include "netfs/types.h"

#include "base/assert.h"
#include "base/counter.h"
#include "base/error.h"
#include "base/trace.h"

static uint64_t block_start(const struct nf_wreq *wq, unsigned i)
{
	return wq->blocks[i].index * wq->p->ic->block_bytes;
}

static uint64_t group_size(const struct nf_wreq *wq)
{
	return wq->group && wq->group->closed ? wq->group->size_bytes : nf_size(wq->p);
}

static bool has_dirty(const struct nf_wreq *wq, unsigned i)
{
	uint64_t start = block_start(wq, i);
	uint64_t end = start + wq->p->ic->block_bytes;
	const struct nf_region *rg = nf_regions_at(&wq->p->dirty, start);

	if (wq->copy)
		return nf_copy_has_locked(wq->p, wq->blocks[i].index);
	while (rg && rg->start < end && rg->group != wq->group)
		rg = nf_regions_next(rg);
	return rg && rg->start < end && start < group_size(wq);
}

static bool is_missing(const struct nf_wreq *wq, unsigned i)
{
	uint64_t start = block_start(wq, i);

	return !nf_claim_at_locked(wq->p, wq->blocks[i].index)->filled &&
	       nf_range_has_stored_locked(wq->p, start, start + wq->p->ic->block_bytes);
}

void nf_wreq_drop_block_locked(struct nf_wreq *wq, unsigned i)
{
	nf_avl_erase(&wq->p->claims, &nf_claim_at_locked(wq->p, wq->blocks[i].index)->node);
	wq->nr_blocks--;
	memmove(&wq->blocks[i], &wq->blocks[i + 1], (wq->nr_blocks - i) * sizeof *wq->blocks);
}

/* --- filling ------------------------------------------------------------------------------- */

static void drop_clean_blocks_locked(struct nf_wreq *wq)
{
	for (unsigned i = wq->nr_blocks; i-- > 0;)
		if (!has_dirty(wq, i))
			nf_wreq_drop_block_locked(wq, i);
}

static bool fill_run_locked(struct nf_wreq *wq, unsigned first, unsigned nr, struct nf_todo *todo)
{
	if (!nf_rreq_new_fill_locked(wq, first, nr, todo))
		return false;
	wq->nr_fills++;
	return true;
}

void nf_wreq_fill_locked(struct nf_wreq *wq, struct nf_todo *todo)
{
	unsigned run = 0;
	bool ok = true;

	wq->phase = NF_WREQ_FILLING;
	for (unsigned i = 0; ok && i < wq->nr_blocks; i++) {
		bool missing = is_missing(wq, i);
		if (missing)
			run++;
		bool ends = i + 1 == wq->nr_blocks ||
			    wq->blocks[i + 1].index != wq->blocks[i].index + 1;
		if (run && (!missing || ends)) {
			ok = fill_run_locked(wq, i + missing - run, run, todo);
			run = 0;
		}
	}
	if (!ok)
		wq->error = -ENOMEM;
	if (wq->nr_fills == 0)
		wq->phase = NF_WREQ_WAITING;
}

void nf_wreq_filled_locked(struct nf_wreq *wq, const struct nf_rreq *rq)
{
	for (unsigned i = 0; i < rq->nr_blocks && !rq->stale && !rq->error; i++)
		nf_claim_at_locked(wq->p, rq->blocks[i].index)->filled = true;
	if (rq->error && !wq->error)
		wq->error = rq->error;
	wq->nr_fills--;
	if (wq->nr_fills == 0)
		wq->phase = NF_WREQ_WAITING;
}

/* --- gathering ------------------------------------------------------------------------------- */

static bool is_busy(const struct nf_wreq *wq)
{
	for (unsigned i = 0; i < wq->nr_blocks; i++) {
		uint64_t start = block_start(wq, i), end = start + wq->p->ic->block_bytes;
		if (nf_writing_locked(wq->p, start, end) || nf_applying_locked(wq->p, start, end))
			return true;
	}
	return false;
}

/* The dirty regions in block I are the request's from now on. */
static void take_regions_locked(struct nf_wreq *wq, unsigned i)
{
	struct nf_ictx_priv *p = wq->p;
	uint64_t start = block_start(wq, i), end = start + p->ic->block_bytes;
	struct nf_region *rg, *next;

	if (wq->copy) {
		nf_copy_taken_locked(p, wq->blocks[i].index);
		return;
	}
	for (rg = nf_regions_at(&p->dirty, start); rg && rg->start < end; rg = next) {
		next = nf_regions_next(rg);
		NF_ASSERT(rg->group == wq->group); /* younger writers wait until the block is gathered */
		if (rg->start < start)
			rg = nf_regions_split(&p->dirty, rg, start);
		if (rg->end > end)
			(void)nf_regions_split(&p->dirty, rg, end);
		next = nf_regions_next(rg); /* splitting made another */
		nf_list_del(&rg->link);
		nf_regions_remove(&p->dirty, rg);
		if (!nf_region_is_zero(rg))
			nf_group_gathered(wq->group, rg->start, rg->end);
		nf_region_move(rg, NF_REGION_FLUSHING, "flushing");
		nf_regions_insert(&p->flushing, rg);
		nf_list_add_tail(&wq->regions, &rg->link);
	}
}

static void pin_span_folio(struct nf_wreq *wq, struct nf_folio *f)
{
	if (wq->nr_folios && wq->folios[wq->nr_folios - 1] == f)
		return;
	nf_folio_pin(f);
	wq->folios[wq->nr_folios++] = f;
}

static void plan_span(struct nf_wreq *wq, const struct nf_span *sp, uint8_t *plain)
{
	uint8_t *mem = sp->f ? sp->f->mem + (sp->start - sp->f->pos_bytes) : NULL;
	size_t len = (size_t)(sp->end - sp->start);

	if (sp->f)
		pin_span_folio(wq, sp->f);
	if (sp->kind == NF_SPAN_MEMORY) {
		nf_plan_add(&wq->plan, (struct nf_plan_op){ NF_PLAN_COPY, plain, mem, len });
		return;
	}
	if (sp->kind == NF_SPAN_ZERO)
		nf_plan_add(&wq->plan, (struct nf_plan_op){ NF_PLAN_ZERO, plain, NULL, len });
	if (mem && nf_folio_is_unsettled(sp->f))
		wq->unsettled = true;
	else if (mem)
		nf_plan_add(&wq->plan, (struct nf_plan_op){ NF_PLAN_COPY, mem, plain, len });
}

/* False: something was in memory when last looked for, and has been given up since.  What is planned is pinned. */
static bool plan_block_locked(struct nf_wreq *wq, unsigned i)
{
	bool filled = nf_claim_at_locked(wq->p, wq->blocks[i].index)->filled, ok = true;
	struct nf_block *b = &wq->blocks[i];
	uint64_t start = block_start(wq, i), bb = wq->p->ic->block_bytes;
	uint64_t left = group_size(wq) - start;
	struct nf_spans it;
	struct nf_span sp;

	b->plain_len = (uint32_t)NF_MIN(left, bb);
	wq->in_place[i] = NULL;
	nf_spans_start(&it, wq->p, start, start + bb);
	while (ok && nf_spans_next(&it, &sp)) {
		ok = filled || sp.kind != NF_SPAN_STORED;
		/* Sealed where it is, if it is sealed at all and all of it is there. */
		if (sp.kind == NF_SPAN_MEMORY && sp.end - sp.start == bb && b->plain_len == bb &&
		    wq->p->ic->ops->encrypt_block) {
			pin_span_folio(wq, sp.f);
			wq->in_place[i] = sp.f->mem + (start - sp.f->pos_bytes);
		} else {
			plan_span(wq, &sp, (uint8_t *)b->plain + (sp.start - start));
		}
	}
	nf_spans_end(&it);
	return ok;
}

static void swap(void **a, void **b)
{
	void *t = *a;

	*a = *b;
	*b = t;
}

/* Seals while writers are still kept out, so blocks that are whole in a folio need no copy.  If that fails, or what came
 * out is the plaintext itself, they get one: it must last longer than the folios. */
static int seal_gathered(struct nf_wreq *wq)
{
	void **buffer = wq->in_place; /* what was planned, then the buffer meanwhile */

	for (unsigned i = 0; i < wq->nr_blocks; i++)
		if (buffer[i])
			swap(&buffer[i], &wq->blocks[i].plain);
	int r = nf_wreq_prepare(wq);
	for (unsigned i = 0; i < wq->nr_blocks; i++) {
		struct nf_block *b = &wq->blocks[i];
		if (!buffer[i])
			continue;
		if (r < 0 || b->sealed == b->plain) {
			memcpy(buffer[i], b->plain, b->plain_len);
			nf_count(NF_C_WRITE_COPIED_BYTES, b->plain_len);
		}
		if (b->sealed == b->plain)
			b->sealed = buffer[i];
		b->plain = buffer[i];
	}
	return r;
}

static void count_copies(const struct nf_plan *plan)
{
	for (size_t i = 0; i < plan->nr; i++)
		if (plan->ops[i].kind == NF_PLAN_COPY)
			nf_count(NF_C_WRITE_COPIED_BYTES, plan->ops[i].len);
}

static void raise_zero_point_locked(struct nf_wreq *wq)
{
	struct nf_ictx_priv *p = wq->p;

	nf_list_for_each(rg, &wq->regions, struct nf_region, link)
		if (!nf_region_is_zero(rg) && rg->end > p->zero_point)
			p->zero_point = rg->end;
}

static void unpin_folios(struct nf_wreq *wq)
{
	for (unsigned i = 0; i < wq->nr_folios; i++)
		nf_folio_unpin(wq->folios[i]);
	wq->nr_folios = 0;
}

static void start_gathering_locked(struct nf_wreq *wq, struct nf_todo *todo)
{
	bool ok = true;

	wq->plan.nr = 0;
	wq->unsettled = false;
	/* The plan is of the time before the zero point moves. */
	for (unsigned i = 0; ok && i < wq->nr_blocks; i++)
		ok = plan_block_locked(wq, i);
	if (!ok) {
		unpin_folios(wq);
		nf_wreq_fill_locked(wq, todo);
		if (wq->phase == NF_WREQ_WAITING)
			nf_kick_later(wq->p);
		return;
	}
	wq->phase = NF_WREQ_GATHERING;
	wq->stale = false;
	for (unsigned i = 0; i < wq->nr_blocks; i++)
		take_regions_locked(wq, i);
	raise_zero_point_locked(wq);
	nf_list_add_tail(&todo->wreqs, &wq->todo);
}

static bool anything_missing(const struct nf_wreq *wq)
{
	for (unsigned i = 0; i < wq->nr_blocks; i++)
		if (is_missing(wq, i))
			return true;
	return false;
}

/* One step of a request in WAITING, if it can go on. */
static void step_locked(struct nf_wreq *wq, struct nf_todo *todo)
{
	if (!wq->cancelled)
		drop_clean_blocks_locked(wq);
	if (wq->error || wq->cancelled || wq->nr_blocks == 0) {
		if (wq->error && !wq->cancelled)
			nf_wreq_failed_locked(wq, wq->error);
		nf_wreq_redirty_locked(wq);
		nf_wreq_end_locked(wq, todo);
	} else if (anything_missing(wq)) {
		nf_wreq_fill_locked(wq, todo);
	} else if (!is_busy(wq)) {
		start_gathering_locked(wq, todo);
	}
}

void nf_wreqs_gather_locked(struct nf_ictx_priv *p, struct nf_todo *todo)
{
	nf_list_for_each_safe(wq, &p->wreqs, struct nf_wreq, link)
		if (wq->phase == NF_WREQ_WAITING)
			step_locked(wq, todo);
}

static void gathered_locked(struct nf_wreq *wq)
{
	for (unsigned i = 0; i < wq->nr_folios; i++) {
		struct nf_folio *f = wq->folios[i];
		for (unsigned b = 0; b < wq->nr_blocks && !wq->stale && !wq->unsettled; b++)
			if (f->mapped)
				nf_folio_set_uptodate(f, block_start(wq, b),
						      block_start(wq, b) + wq->p->ic->block_bytes);
	}
	unpin_folios(wq);
	wq->phase = NF_WREQ_STORING;
}

void nf_wreq_gather(struct nf_wreq *wq)
{
	struct nf_ictx_priv *p = wq->p;

	nf_plan_run(&wq->plan, 0, wq->plan.nr);
	count_copies(&wq->plan);
	int r = seal_gathered(wq);
	nf_ic_lock(p);
	gathered_locked(wq);
	nf_ic_unlock(p, NULL);
	nf_wreq_issue(wq, r);
}
