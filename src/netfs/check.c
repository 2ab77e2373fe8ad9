/* Invariants of an inode context, after the list in the reference (I1-I15).
 *
 *   I1  dirty within reserved within bounds         nf_regions_check()
 *   I2  reserved ranges of running writers disjoint
 *   I3  regions in order and disjoint               nf_regions_check()
 *   I4  every dirty byte has its folio
 *   I5  a folio holding dirty bytes is marked dirty
 *   I7  flushing regions belong to requests that have their block
 *   I9  only the oldest group has requests
 *   I13 complete regions are on no list */
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

static void check_writers(struct nf_ictx_priv *p)
{
	nf_list_for_each(a, &p->active, struct nf_region, link) {
		NF_ASSERT(a->state == NF_REGION_RESERVED || a->state == NF_REGION_ACTIVE);
		NF_ASSERT(a->group && a->group->nr_writers);
		for (struct nf_list *l = a->link.next; l != &p->active; l = l->next) {
			const struct nf_region *b = nf_list_entry(l, struct nf_region, link);
			NF_ASSERT(a->reserved_end <= b->reserved_start ||
				  b->reserved_end <= a->reserved_start);
		}
	}
	nf_list_for_each(rg, &p->pending, struct nf_region, link)
		NF_ASSERT(rg->state == NF_REGION_PENDING);
}

static void check_groups(struct nf_ictx_priv *p)
{
	uint64_t last = 0;

	nf_list_for_each(g, &p->groups, struct nf_group, link) {
		NF_ASSERT(g->number > last);
		NF_ASSERT(g->closed || g->link.next == &p->groups);
		NF_ASSERT(g->nr_requests == 0 || g->link.prev == &p->groups);
		last = g->number;
		nf_list_for_each(rg, &g->dirty, struct nf_region, link) {
			NF_ASSERT(rg->state == NF_REGION_DIRTY);
			NF_ASSERT(rg->group == g);
		}
	}
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
	for (struct nf_region *rg = nf_regions_at(&p->dirty, 0); rg; rg = nf_regions_next(rg))
		check_folios(p, rg);
	for (struct nf_region *rg = nf_regions_at(&p->flushing, 0); rg; rg = nf_regions_next(rg))
		check_folios(p, rg);
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
