/* What is known of each byte of a file.
 *
 *   first that holds                                     the byte is
 *   its page is uptodate                                 MEMORY
 *   it is at or past i_size                              ZERO
 *   a dirty region has it                                MEMORY, or ZERO by the region's type
 *   a flushing region has it                             the same
 *   it is at or past zero_point                          ZERO
 *   else                                                 STORED
 *
 * Reading, filling, gathering and peeking all walk a range with this one function, so they
 * cannot disagree. */
#include "netfs/types.h"

#include "base/assert.h"

void nf_spans_start(struct nf_spans *it, struct nf_ictx_priv *p, uint64_t start, uint64_t end)
{
	it->p = p;
	it->pos = start;
	it->end = end;
	it->f = NULL;
}

void nf_spans_end(struct nf_spans *it)
{
	if (it->f)
		nf_folio_unpin(it->f);
	it->f = NULL;
}

/* The end of the run of pages from POS that are, or are not, uptodate as POS is. */
static uint64_t page_run_end(const struct nf_folio *f, uint64_t pos, uint64_t end, bool uptodate)
{
	uint64_t at = (pos & ~(uint64_t)(NF_PC_PAGE_BYTES - 1)) + NF_PC_PAGE_BYTES;

	while (at < end && nf_folio_page_uptodate(f, at) == uptodate)
		at += NF_PC_PAGE_BYTES;
	return NF_MIN(at, end);
}

/* True if a region of RS has POS; otherwise *LIMIT is cut where the next begins. */
static bool in_region(const struct nf_regions *rs, uint64_t pos, uint64_t *limit, bool *zero)
{
	const struct nf_region *rg = nf_regions_at(rs, pos);

	if (!rg)
		return false;
	if (rg->start > pos) {
		*limit = NF_MIN(*limit, rg->start);
		return false;
	}
	*limit = NF_MIN(*limit, rg->end);
	*zero = nf_region_is_zero(rg);
	return true;
}

static enum nf_span_kind kind_at(struct nf_ictx_priv *p, uint64_t pos, uint64_t *limit)
{
	bool zero = false;
	uint64_t size = nf_size(p);

	if (pos >= size)
		return NF_SPAN_ZERO;
	*limit = NF_MIN(*limit, size);
	if (in_region(&p->dirty, pos, limit, &zero) || in_region(&p->flushing, pos, limit, &zero))
		return zero ? NF_SPAN_ZERO : NF_SPAN_MEMORY;
	if (pos >= p->zero_point)
		return NF_SPAN_ZERO;
	*limit = NF_MIN(*limit, p->zero_point);
	return NF_SPAN_STORED;
}

bool nf_spans_next(struct nf_spans *it, struct nf_span *sp)
{
	uint64_t pos = it->pos, limit = it->end;

	if (pos >= it->end)
		return false;
	if (!it->f || nf_folio_end(it->f) <= pos) {
		nf_spans_end(it);
		it->f = nf_mapping_next(&it->p->mapping, pos);
	}
	sp->start = pos;
	sp->f = NULL;
	if (it->f && it->f->pos_bytes > pos) {
		limit = NF_MIN(limit, it->f->pos_bytes);
	} else if (it->f) {
		bool uptodate = nf_folio_page_uptodate(it->f, pos);
		sp->f = it->f;
		limit = NF_MIN(limit, nf_folio_end(it->f));
		limit = page_run_end(it->f, pos, limit, uptodate);
		if (uptodate) {
			sp->kind = NF_SPAN_MEMORY;
			sp->end = it->pos = limit;
			return true;
		}
	}
	sp->kind = kind_at(it->p, pos, &limit);
	NF_ASSERT(sp->kind != NF_SPAN_MEMORY || sp->f);
	sp->end = it->pos = limit;
	return true;
}

bool nf_range_has_stored_locked(struct nf_ictx_priv *p, uint64_t start, uint64_t end)
{
	struct nf_spans it;
	struct nf_span sp;
	bool found = false;

	nf_spans_start(&it, p, start, end);
	while (!found && nf_spans_next(&it, &sp))
		found = sp.kind == NF_SPAN_STORED;
	nf_spans_end(&it);
	return found;
}

bool nf_range_all_zero_locked(struct nf_ictx_priv *p, uint64_t start, uint64_t end)
{
	struct nf_spans it;
	struct nf_span sp;
	bool zero = true;

	nf_spans_start(&it, p, start, end);
	while (zero && nf_spans_next(&it, &sp))
		zero = sp.kind == NF_SPAN_ZERO;
	nf_spans_end(&it);
	return zero;
}

void nf_plan_add(struct nf_plan *plan, struct nf_plan_op op)
{
	if (plan->nr == plan->cap) {
		plan->cap = plan->cap ? plan->cap * 2 : 16;
		plan->ops = nf_record_grow(plan->ops, plan->cap, sizeof *plan->ops);
	}
	plan->ops[plan->nr++] = op;
}

void nf_plan_run(const struct nf_plan *plan, size_t from, size_t to)
{
	for (size_t i = from; i < to; i++) {
		const struct nf_plan_op *op = &plan->ops[i];
		if (op->kind == NF_PLAN_COPY)
			memcpy(op->to, op->from, op->len);
		else
			memset(op->to, 0, op->len);
	}
}

void nf_plan_deinit(struct nf_plan *plan)
{
	free(plan->ops);
	*plan = (struct nf_plan){ 0 };
}
