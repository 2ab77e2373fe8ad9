/* Invariants of an inode context, after the list in the reference (I1-I15).
 *
 *   I1  dirty within reserved within bounds         nf_regions_check(), check_writers()
 *   I2  running writers keep out of one another's way check_writers()
 *   I3  regions in order and disjoint               nf_regions_check()
 *   I4  every dirty byte has its folio              check_folios()
 *   I5  a folio is marked dirty if and only if it holds dirty bytes  check_folios(), check_dirty_folios()
 *   I6  (no write-back count: a request has a copy)
 *   I7  flushing regions belong to requests that have their block   check_requests()
 *   I8  the same: the copy is the request's          test g31
 *   I9  only the oldest group has requests          check_groups()
 *   I10 what is counted adds up                     check_groups(), check_writers()
 *   I11 bytes that are being stored lie below zero_point  check_requests()
 *   I12 (pages are uptodate one by one: nothing to disagree)
 *   I13 complete regions are on no list             nf_region_free()
 *   I14 no call reports more than was asked for     nf_writer_finish(), nf_read()
 *   I15 blocks are sealed whole                     seal_block() */
#include "netfs/types.h"

#include "base/assert.h"

static void check_folios(struct nf_ictx_priv *p, const struct nf_region *rg)
{
	for (uint64_t pos = rg->start; pos < rg->end && !nf_region_is_zero(rg);) {
		struct nf_folio *f = nf_mapping_next(&p->mapping, pos);
		/* Cut off by a truncation that lies over it: the request has its copy. */
		bool over = rg->state == NF_REGION_FLUSHING &&
			    (nf_size(p) < rg->end || nf_regions_at(&p->dirty, rg->start));
		if (f && f->pos_bytes <= pos) {
			NF_ASSERT(f->dirty || over);
			pos = nf_folio_end(f);
		} else {
			NF_ASSERT(over);
			pos = rg->end;
		}
		if (f)
			nf_folio_unpin(f);
	}
}

/* I5 the other way round: a folio without dirty bytes can be given up. */
static void check_dirty_folios(struct nf_ictx_priv *p)
{
	struct nf_folio *f;

	for (uint64_t pos = 0; (f = nf_mapping_next(&p->mapping, pos));) {
		NF_ASSERT(!f->dirty || nf_range_in_use_locked(p, f->pos_bytes, nf_folio_end(f)));
		pos = nf_folio_end(f);
		/* Reclaim takes no inode lock: the folio may go with its pin. */
		nf_folio_unpin(f);
	}
}

static bool keeps_others_out(const struct nf_region *b, const void *ctx)
{
	const struct nf_region *a = ctx;
	bool both_run = a->state != NF_REGION_PENDING && b->state != NF_REGION_PENDING;
	const struct nf_ictx_priv *p = nf_writer_of(a)->p;

	return a != b && both_run &&
	       nf_region_must_pend(a, b, b->group, p->ic->block_bytes, &p->region_ops);
}

static void check_writers(struct nf_ictx_priv *p)
{
	size_t nr = 0;

	nf_queue_check(&p->queue);
	nf_list_for_each(a, &p->active, struct nf_region, link) {
		const struct nf_writer *w = nf_writer_of(a);
		nr++;
		NF_ASSERT(a->state == NF_REGION_RESERVED || a->state == NF_REGION_ACTIVE);
		NF_ASSERT(a->group && a->group->nr_writers);
		NF_ASSERT(w->cursor >= a->reserved_start && w->cursor <= w->window_end);
		NF_ASSERT(w->window_end <= a->reserved_end);
		NF_ASSERT(!nf_queue_find(&p->queue, nf_block_down(p, a->reserved_start),
					 nf_block_up(p, a->reserved_end), keeps_others_out, a));
	}
	nf_list_for_each(rg, &p->pending, struct nf_region, link) {
		const struct nf_writer *w = nf_writer_of(rg);
		NF_ASSERT(rg->state == NF_REGION_PENDING && !rg->group);
		NF_ASSERT(!w->granted && w->nr_folios == 0 && w->cursor == w->window_end);
		nr++;
	}
	NF_ASSERT(nr == p->queue.nr);
}

static void check_groups(struct nf_ictx_priv *p)
{
	uint64_t last = 0;
	unsigned writers = 0, requests = 0, cancelled = 0;

	nf_list_for_each(g, &p->groups, struct nf_group, link) {
		NF_ASSERT(g->number > last && g->number <= p->last_group);
		NF_ASSERT(g->closed || g->link.next == &p->groups);
		NF_ASSERT(g->nr_requests == 0 || g->link.prev == &p->groups);
		last = g->number;
		writers += g->nr_writers;
		requests += g->nr_requests;
		nf_list_for_each(rg, &g->dirty, struct nf_region, link) {
			NF_ASSERT(rg->state == NF_REGION_DIRTY);
			NF_ASSERT(rg->group == g);
		}
	}
	nf_list_for_each(rg, &p->active, struct nf_region, link)
		writers--;
	nf_list_for_each(wq, &p->wreqs, struct nf_wreq, link)
		cancelled += !wq->group;
	NF_ASSERT(writers == 0);
	NF_ASSERT(requests + cancelled == p->nr_wreqs);
}

static void check_requests(struct nf_ictx_priv *p)
{
	uint64_t bb = p->ic->block_bytes;
	unsigned nr = 0;

	nf_list_for_each(wq, &p->wreqs, struct nf_wreq, link) {
		nr++;
		for (unsigned i = 0; i < wq->nr_blocks; i++) {
			const struct nf_claim *c = nf_claim_at_locked(p, wq->blocks[i].index);
			NF_ASSERT(c && c->wreq == wq);
		}
		nf_list_for_each(rg, &wq->regions, struct nf_region, link) {
			const struct nf_claim *c = nf_claim_at_locked(p, rg->start / bb);
			NF_ASSERT(c && c->wreq == wq);
			NF_ASSERT(rg->state == NF_REGION_FLUSHING);
			NF_ASSERT((rg->end - 1) / bb == rg->start / bb);
			NF_ASSERT(nf_region_is_zero(rg) || rg->end <= p->zero_point);
		}
	}
	NF_ASSERT(nr == p->nr_wreqs);
}

void nf_ictx_check_locked(struct nf_ictx_priv *p)
{
	/* The cost is that of everything dirty: beyond a size only now and then. */
	if (p->dirty.nr + p->flushing.nr > 200 && p->seq % 64)
		return;
	nf_mapping_check(&p->mapping);
	nf_regions_check(&p->dirty, NF_REGION_DIRTY);
	nf_regions_check(&p->flushing, NF_REGION_FLUSHING);
	nf_regions_check(&p->copies, NF_REGION_DIRTY);
	for (struct nf_region *rg = nf_regions_at(&p->dirty, 0); rg; rg = nf_regions_next(rg))
		check_folios(p, rg);
	for (struct nf_region *rg = nf_regions_at(&p->flushing, 0); rg; rg = nf_regions_next(rg))
		check_folios(p, rg);
	for (struct nf_region *rg = nf_regions_at(&p->copies, 0); rg; rg = nf_regions_next(rg)) {
		check_folios(p, rg);
		for (uint64_t b = rg->start / p->ic->block_bytes; b * p->ic->block_bytes < rg->end; b++)
			NF_ASSERT(!nf_copy_must_not_locked(p, b));
	}
	check_dirty_folios(p);
	check_writers(p);
	check_groups(p);
	check_requests(p);
}

void nf_ictx_check(struct nf_ictx *ic)
{
	nf_lock_take(&ic->priv->lock);
	nf_ictx_check_locked(ic->priv);
	nf_lock_drop(&ic->priv->lock);
}
