/* What of a file is in memory, and what is modified: for pictures. */
#include "netfs/types.h"

#include "base/mem.h"

/* The NR pieces that begin first, ascending; what does not fit moves `next` back. */
struct collect {
	struct nf_map_extent *out;
	size_t nr, max;
	uint64_t next;
};

static void collect(struct collect *c, struct nf_map_extent e)
{
	size_t i = c->nr;

	while (i > 0 && c->out[i - 1].start > e.start)
		i--;
	if (i == c->max) {
		c->next = NF_MIN(c->next, e.start);
		return;
	}
	if (c->nr == c->max)
		c->next = NF_MIN(c->next, c->out[--c->nr].start);
	memmove(&c->out[i + 1], &c->out[i], (c->nr - i) * sizeof c->out[0]);
	c->out[i] = e;
	c->nr++;
}

static void collect_region(struct collect *c, const struct nf_region *rg, uint64_t from)
{
	if (rg->start >= from && rg->start < rg->end)
		collect(c, (struct nf_map_extent){ .start = rg->start, .end = rg->end,
						   .group = rg->group ? rg->group->number : 0,
						   .state = nf_region_state_letter(rg->state) });
}

static void collect_tree(struct collect *c, const struct nf_regions *rs, uint64_t from)
{
	const struct nf_region *rg = nf_regions_at(rs, from);

	for (; rg && rg->start < c->next; rg = nf_regions_next(rg))
		collect_region(c, rg, from);
}

static void collect_regions_locked(struct collect *c, struct nf_ictx_priv *p, uint64_t from)
{
	collect_tree(c, &p->dirty, from);
	collect_tree(c, &p->flushing, from);
	nf_list_for_each(rg, &p->pending, struct nf_region, link)
		collect_region(c, rg, from);
	nf_list_for_each(rg, &p->active, struct nf_region, link)
		collect_region(c, rg, from);
}

/* False: no room for [start, end). */
static bool collect_run(struct collect *c, uint64_t start, uint64_t end)
{
	if (c->nr && c->out[c->nr - 1].end == start) {
		c->out[c->nr - 1].end = end;
		return true;
	}
	if (c->nr == c->max) {
		c->next = start;
		return false;
	}
	c->out[c->nr++] = (struct nf_map_extent){ .start = start, .end = end };
	return true;
}

static void collect_memory_locked(struct collect *c, struct nf_ictx_priv *p, uint64_t from)
{
	struct nf_folio *f;
	bool room = true;

	for (uint64_t pos = from; room && (f = nf_mapping_next(&p->mapping, pos));) {
		pos = nf_folio_end(f);
		for (uint64_t at = f->pos_bytes; room && at < pos; at += NF_PAGE_BYTES)
			if (at + NF_PAGE_BYTES > from && nf_folio_page_uptodate(f, at))
				room = collect_run(c, NF_MAX(at, from), at + NF_PAGE_BYTES);
		nf_folio_unpin(f);
	}
}

size_t nf_ictx_map(struct nf_ictx *ic, enum nf_map_what what, uint64_t from, struct nf_map_extent *out,
		   size_t nr, uint64_t *next)
{
	struct nf_ictx_priv *p = ic->priv;
	struct collect c = { .out = out, .max = nr, .next = UINT64_MAX };

	nf_lock_take(&p->lock);
	if (what == NF_MAP_REGIONS)
		collect_regions_locked(&c, p, from);
	else
		collect_memory_locked(&c, p, from);
	nf_lock_drop(&p->lock);
	/* More than NR that begin at one byte are not told apart. */
	*next = NF_MAX(c.next, from + 1);
	return c.nr;
}
