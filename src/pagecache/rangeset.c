#include "pagecache/rangeset.h"

#include "base/mem.h"
#include "pagecache/region.h"

struct range {
	struct nf_avl_node node;
	uint64_t start;
	uint64_t end;
};

static struct range *range_of(const struct nf_avl_node *n)
{
	return n ? nf_container_of((struct nf_avl_node *)(uintptr_t)n, struct range, node) : NULL;
}

static int by_start(const void *key, const struct nf_avl_node *n)
{
	uint64_t start = *(const uint64_t *)key;

	return start < range_of(n)->start ? -1 : start > range_of(n)->start;
}

void nf_rangeset_init(struct nf_rangeset *s)
{
	nf_avl_init(&s->tree, NULL);
	s->nr = 0;
}

static void drop(struct nf_rangeset *s, struct range *r)
{
	nf_avl_erase(&s->tree, &r->node);
	s->nr--;
	free(r);
}

void nf_rangeset_deinit(struct nf_rangeset *s)
{
	while (!nf_avl_empty(&s->tree))
		drop(s, range_of(s->tree.root));
}

/* The first range with end >= POS. */
static struct range *touching(const struct nf_rangeset *s, uint64_t pos)
{
	struct nf_avl_node *n = s->tree.root, *best = NULL;

	while (n) {
		bool right = range_of(n)->end < pos;
		if (!right)
			best = n;
		n = n->child[right];
	}
	return range_of(best);
}

static void insert(struct nf_rangeset *s, uint64_t start, uint64_t end)
{
	struct range *r = nf_record_alloc(sizeof *r);

	r->start = start;
	r->end = end;
	(void)nf_avl_add(&s->tree, &r->start, by_start, &r->node); /* never there: ranges are disjoint */
	s->nr++;
}

void nf_rangeset_add(struct nf_rangeset *s, uint64_t start, uint64_t end)
{
	struct range *r;

	if (start >= end)
		return;
	while ((r = touching(s, start)) && r->start <= end) {
		if (r->start <= start && r->end >= end)
			return;
		start = NF_MIN(start, r->start);
		end = NF_MAX(end, r->end);
		drop(s, r);
	}
	insert(s, start, end);
}

void nf_rangeset_remove(struct nf_rangeset *s, uint64_t start, uint64_t end)
{
	struct range *r;

	if (start >= end)
		return;
	while ((r = touching(s, start + 1)) && r->start < end) {
		uint64_t from = r->start, to = r->end;
		drop(s, r);
		if (from < start)
			insert(s, from, start);
		if (to > end)
			insert(s, end, to);
	}
}

bool nf_rangeset_next(const struct nf_rangeset *s, uint64_t pos, uint64_t *start, uint64_t *end)
{
	const struct range *r = pos == UINT64_MAX ? NULL : touching(s, pos + 1);

	if (!r)
		return false;
	*start = r->start;
	*end = r->end;
	return true;
}

uint64_t nf_rangeset_end(const struct nf_rangeset *s)
{
	const struct range *r = range_of(nf_avl_last(&s->tree));

	return r ? r->end : 0;
}
