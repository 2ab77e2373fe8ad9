/* Semi-dirty regions: what was downloaded and belongs into the filesystem's cache.
 *
 *   read request applied ──> CACHE_COPY region, whole blocks, folios stay ──> request "2C" ──> optional streams only
 *                                 │ written over, cut, punched, invalidated, no memory
 *                                 └──> gone
 *
 * They lie in a tree of their own, belong to no group, keep nobody out and are never waited for.  A block with local
 * bytes in it gets none and loses the one it has: write-back brings it to the cache as a whole.  What fails is
 * dropped; the cache merely lacks it.
 *
 * They are stored when enough of them have come together, when memory is short, and at the tick. */
#include "netfs/types.h"

#include "base/assert.h"
#include "base/counter.h"

enum { MEMORY_SHARE = 4 }; /* copies hold at most this part of memory */

static void add_locked(struct nf_ictx_priv *p, uint64_t start, uint64_t end)
{
	struct nf_region *rg = nf_region_new(NF_REGION_CACHE_COPY, NF_REGION_ACTIVE, NULL, start, end);

	nf_region_move(rg, NF_REGION_DIRTY, "downloaded");
	(void)nf_regions_merge(&p->copies, rg, &p->region_ops);
}

/* All of [start, end) is in folios, which are held from now on. */
static bool hold_folios_locked(struct nf_ictx_priv *p, uint64_t start, uint64_t end)
{
	bool ok = true;

	for (uint64_t pos = start; ok && pos < end;) {
		struct nf_folio *f = nf_mapping_next(&p->mapping, pos);
		ok = f && f->pos_bytes <= pos;
		for (uint64_t stop = f ? nf_folio_end(f) : 0; ok && pos < NF_MIN(stop, end); pos += NF_PC_PAGE_BYTES)
			ok = nf_folio_page_uptodate(f, pos);
		if (ok)
			nf_folio_set_dirty(f);
		if (f)
			nf_folio_unpin(f);
	}
	return ok;
}

bool nf_copy_must_not_locked(struct nf_ictx_priv *p, uint64_t index)
{
	uint64_t start = index * p->ic->block_bytes, end = start + p->ic->block_bytes;
	const struct nf_region *d = nf_regions_at(&p->dirty, start), *f = nf_regions_at(&p->flushing, start);

	return (d && d->start < end) || (f && f->start < end);
}

void nf_copy_add_locked(struct nf_ictx_priv *p, const struct nf_block *b)
{
	uint64_t bb = p->ic->block_bytes, start = b->index * bb, size = nf_size(p);
	uint64_t end = NF_MIN(start + bb, size);
	const struct nf_region *there = nf_regions_at(&p->copies, start);

	/* Of another length than the block has here: the file grew, and that is not stored yet. */
	if (b->hole || start >= end || b->plain_len != end - start || nf_claim_at_locked(p, b->index) ||
	    nf_copy_must_not_locked(p, b->index) || nf_writing_locked(p, start, start + bb) || (there && there->start < end) ||
	    p->copies.bytes + bb > nf_memory_limit(p->lib->mem) / MEMORY_SHARE)
		return;
	if (!hold_folios_locked(p, start, end)) {
		nf_folios_recheck_locked(p, start, end, false);
		return;
	}
	add_locked(p, start, end);
	nf_count(NF_C_REGION_COPY, 1);
	if (p->copies.bytes >= p->lib->request_bytes)
		p->store_copies = true;
}

void nf_copy_drop_locked(struct nf_ictx_priv *p, uint64_t start, uint64_t end, const char *why)
{
	if (p->copies.nr == 0)
		return;
	start = nf_block_down(p, start);
	end = nf_block_up(p, end);
	const struct nf_region *rg = nf_regions_at(&p->copies, start);
	if (!rg || rg->start >= end)
		return;
	nf_regions_cut(&p->copies, start, end, why);
	nf_folios_recheck_locked(p, start, end, false);
}

bool nf_copy_has_locked(struct nf_ictx_priv *p, uint64_t index)
{
	uint64_t start = index * p->ic->block_bytes;
	const struct nf_region *rg = nf_regions_at(&p->copies, start);

	return rg && rg->start < start + p->ic->block_bytes;
}

/* WQ has its copy of block INDEX from now on. */
void nf_copy_taken_locked(struct nf_ictx_priv *p, uint64_t index)
{
	uint64_t start = index * p->ic->block_bytes;
	struct nf_region *rg = nf_regions_at(&p->copies, start);
	uint64_t end = NF_MIN(start + p->ic->block_bytes, rg->end);

	if (rg->start < start)
		rg = nf_regions_split(&p->copies, rg, start);
	if (rg->end > end)
		(void)nf_regions_split(&p->copies, rg, end);
	nf_regions_remove(&p->copies, rg);
	nf_region_move(rg, NF_REGION_FLUSHING, "copied to cache");
	nf_region_move(rg, NF_REGION_COMPLETE, "copied to cache");
	nf_region_free(rg);
	nf_folios_recheck_locked(p, start, end, false);
}

/* Blocks for the next request; how many. */
unsigned nf_copy_pick_locked(struct nf_ictx_priv *p, uint64_t *index, unsigned max)
{
	uint64_t bb = p->ic->block_bytes;
	unsigned nr = 0;

	for (const struct nf_region *rg = nf_regions_at(&p->copies, 0); rg; rg = nf_regions_next(rg))
		for (uint64_t b = rg->start / bb; b * bb < rg->end && nr < max; b++)
			if (!nf_claim_at_locked(p, b))
				index[nr++] = b;
	return nr;
}
