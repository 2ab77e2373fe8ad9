/* Changes by other hands, and giving up one's own.
 *
 *   invalidate   clean memory goes; dirty ranges stay and lie over what is stored now; reads and
 *                preparations under way are made again
 *   discard      everything not yet stored goes */
#include "netfs/types.h"

#include "base/assert.h"
#include "base/trace.h"

#include <inttypes.h>

static void forget_clean_locked(struct nf_ictx_priv *p, uint64_t start, uint64_t end)
{
	struct nf_folio *f;

	nf_copy_drop_locked(p, start, end, "invalidated");
	for (uint64_t pos = start; pos < end && (f = nf_mapping_next(&p->mapping, pos));) {
		pos = nf_folio_end(f);
		nf_folio_clear_uptodate(f, start, end);
		nf_folio_unpin(f);
	}
	/* Folios without pages that count and without dirty bytes are of no use. */
	nf_folios_recheck_locked(p, start, end, false);
}

static void make_stale_locked(struct nf_ictx_priv *p, uint64_t start, uint64_t end)
{
	uint64_t bb = p->ic->block_bytes;

	nf_reads_stale_locked(p, start, end);
	nf_list_for_each(wq, &p->wreqs, struct nf_wreq, link) {
		for (unsigned i = 0; i < wq->nr_blocks; i++) {
			uint64_t at = wq->blocks[i].index * bb;
			if (at >= end || start >= at + bb)
				continue;
			wq->stale = true;
			nf_claim_at_locked(p, wq->blocks[i].index)->filled = false;
		}
	}
}

/* Where local changes that have not drained reach to; part of them may be stored already. */
static uint64_t local_data_end_locked(struct nf_ictx_priv *p)
{
	uint64_t end = nf_regions_data_end(&p->dirty);

	nf_list_for_each(g, &p->groups, struct nf_group, link) {
		uint64_t g_end = nf_rangeset_end(&g->ranges);
		end = NF_MAX(end, g_end);
	}
	return end;
}

static uint64_t local_size_locked(struct nf_ictx_priv *p)
{
	uint64_t size = local_data_end_locked(p);

	nf_list_for_each(g, &p->groups, struct nf_group, link)
		size = NF_MAX(size, g->grown_bytes);
	return size;
}

static void add_zeros_under_locked(struct nf_ictx_priv *p, struct nf_group *g, uint64_t start, uint64_t end)
{
	if (start >= end)
		return;
	struct nf_region *d = nf_region_new(NF_REGION_TRUNCATE, NF_REGION_FLUSHING, g, start, end);
	d->seq = ++p->seq;
	nf_regions_redirty(&p->dirty, d, &g->dirty, &p->region_ops);
}

struct younger {
	struct nf_group *group;
	uint64_t start; /* of its blocks, or their part behind where the search began */
	uint64_t end;
};

/* The first blocks that reach behind POS in which a group younger than G has written or is about to. */
static bool next_younger_locked(struct nf_ictx_priv *p, const struct nf_group *g, uint64_t pos,
				struct younger *out)
{
	uint64_t from = nf_block_down(p, pos), bb = p->ic->block_bytes;
	const struct nf_region *rg = nf_regions_at(&p->dirty, from);
	*out = (struct younger){ .start = UINT64_MAX };

	while (rg && rg->group->number <= g->number)
		rg = nf_regions_next(rg);
	if (rg)
		*out = (struct younger){ rg->group, NF_MAX(rg->start, from), nf_block_down(p, rg->end) };
	nf_list_for_each(a, &p->active, struct nf_region, link) {
		uint64_t start = NF_MAX(a->reserved_start, from);
		if (a->group->number > g->number && a->reserved_end > from && start < out->start)
			*out = (struct younger){ a->group, start, 0 };
	}
	if (!out->group)
		return false;
	out->start = nf_block_down(p, out->start);
	out->end = NF_MAX(out->end, out->start + bb);
	out->start = NF_MAX(out->start, pos);
	return true;
}

/* What G cut off reaches further than it knew, from POS to END.  What was written since stays.  Where that is of a
 * younger group the zeros around it are that group's, too, so that G does not store its bytes: for G the blocks are
 * holes. */
static void lengthen_truncation_locked(struct nf_ictx_priv *p, struct nf_group *g, uint64_t pos, uint64_t end)
{
	struct younger y;

	while (pos < end) {
		bool any = next_younger_locked(p, g, pos, &y) && y.start < end;
		add_zeros_under_locked(p, g, pos, any ? y.start : end);
		if (!any)
			break;
		add_zeros_under_locked(p, y.group, y.start, y.end);
		for (uint64_t at = y.start; at < y.end;) {
			uint64_t start = UINT64_MAX, stop = 0;
			(void)nf_rangeset_next(&g->ranges, at, &start, &stop);
			/* Blocks that G wrote itself were stored, or will be, with zeros in the rest. */
			uint64_t to = NF_MIN(y.end, nf_block_down(p, start));
			if (at < to)
				nf_rangeset_add(&g->holes, at, to);
			at = to < y.end ? nf_block_up(p, stop) : y.end;
		}
		pos = y.end;
	}
}

/* Stored bytes now reach to END, not only to OLD: truncations that have not drained cut them off, too. The youngest
 * comes first: what it takes is no older one's.  True if there are any. */
static bool lengthen_truncations_locked(struct nf_ictx_priv *p, uint64_t old, uint64_t end)
{
	bool any = false;

	for (struct nf_list *l = p->groups.prev; l != &p->groups; l = l->prev) {
		struct nf_group *g = nf_list_entry(l, struct nf_group, link);
		if (g->least_size_bytes == UINT64_MAX)
			continue;
		any = true;
		lengthen_truncation_locked(p, g, NF_MAX(old, g->least_size_bytes), end);
	}
	return any;
}

/* The size after local changes are laid over the new content; an own truncation holds. */
static void set_sizes_locked(struct nf_ictx_priv *p, uint64_t size, uint64_t zero_point)
{
	uint64_t local = local_size_locked(p);

	zero_point = NF_MIN(zero_point, size);
	bool truncated = lengthen_truncations_locked(p, nf_block_up(p, p->zero_point),
						     nf_block_up(p, zero_point));
	if (!truncated)
		nf_set_i_size_locked(p, NF_MAX(size, local));
	/* Groups that have not drained may have stored bytes up to the old one, also bytes punched since. */
	p->zero_point = nf_list_empty(&p->groups) ? zero_point : NF_MAX(p->zero_point, zero_point);
}

void nf_invalidate(struct nf_ictx *ic, uint64_t start, uint64_t end, uint64_t size_bytes,
		   uint64_t zero_point_bytes)
{
	struct nf_ictx_priv *p = ic->priv;

	nf_ic_lock(p);
	nf_trace(REGION, "invalidate ino=%" PRIx64 " %" PRIx64 "-%" PRIx64 " size=%" PRIx64, ic->ino,
		 start, end, size_bytes);
	p->inval_seq++;
	make_stale_locked(p, nf_block_down(p, start), nf_block_up(p, end));
	forget_clean_locked(p, nf_block_down(p, start), nf_block_up(p, end));
	set_sizes_locked(p, size_bytes, zero_point_bytes);
	nf_ic_unlock_later(p);
}

static void cancel_requests_locked(struct nf_ictx_priv *p)
{
	nf_list_for_each(wq, &p->wreqs, struct nf_wreq, link) {
		if (wq->cancelled)
			continue;
		wq->cancelled = true;
		if (wq->group)
			wq->group->nr_requests--;
		wq->group = NULL;
		while (!nf_list_empty(&wq->regions)) {
			struct nf_region *rg = nf_list_first(&wq->regions, struct nf_region, link);
			nf_list_del(&rg->link);
			nf_regions_remove(&p->flushing, rg);
			nf_region_move(rg, NF_REGION_COMPLETE, "discarded");
			nf_region_free(rg);
		}
	}
}

/* Groups that writers or group_stored() still refer to stay, and drain without a word. */
static void empty_groups_locked(struct nf_ictx_priv *p)
{
	struct nf_group *oldest = nf_group_oldest_locked(p);

	nf_list_for_each_safe(g, &p->groups, struct nf_group, link) {
		g->changed = false;
		g->least_size_bytes = UINT64_MAX;
		nf_rangeset_remove(&g->ranges, 0, UINT64_MAX);
		nf_rangeset_remove(&g->holes, 0, UINT64_MAX);
		if (g->nr_writers || (g == oldest && p->draining))
			continue;
		nf_list_del(&g->link);
		nf_group_free(g);
	}
	p->flush_to = p->last_group;
}

static void discard_writers(struct nf_list *regions, int error)
{
	nf_list_for_each(rg, regions, struct nf_region, link) {
		nf_writer_of(rg)->discarded = true;
		nf_writer_of(rg)->discard_error = error;
	}
}

void nf_discard(struct nf_ictx *ic, int error)
{
	struct nf_ictx_priv *p = ic->priv;
	struct nf_folio *f;

	nf_ic_lock(p);
	nf_trace(REGION, "discard ino=%" PRIx64, ic->ino);
	if (error < 0 && p->is_dirty)
		nf_error_note_locked(p, error);
	discard_writers(&p->pending, error);
	discard_writers(&p->active, error);
	nf_regions_cut(&p->dirty, 0, UINT64_MAX, "discarded");
	nf_regions_cut(&p->copies, 0, UINT64_MAX, "discarded");
	cancel_requests_locked(p);
	nf_list_for_each(w, &p->waiters, struct nf_waiter, link)
		w->error = error;
	empty_groups_locked(p);
	/* What was written over is no longer known. */
	nf_reads_stale_locked(p, 0, UINT64_MAX);
	while ((f = nf_mapping_next(&p->mapping, 0))) {
		nf_folio_drop(f);
		nf_folio_unpin(f);
	}
	p->inval_seq++;
	nf_ic_unlock(p, NULL);
}
