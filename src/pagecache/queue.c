#include "pagecache/queue.h"

#include "base/assert.h"

static struct nf_region *region_of(const struct nf_avl_node *n)
{
	return n ? nf_container_of((struct nf_avl_node *)(uintptr_t)n, struct nf_region, node)
		 : NULL;
}

static uint64_t greatest_end(const struct nf_avl_node *n)
{
	uint64_t end = region_of(n)->reserved_end;

	for (int side = 0; side < 2; side++) {
		const struct nf_region *c = region_of(n->child[side]);
		if (c)
			end = NF_MAX(end, c->greatest_end);
	}
	return end;
}

static void update(struct nf_avl_node *n) { region_of(n)->greatest_end = greatest_end(n); }

static int by_place(const void *key, const struct nf_avl_node *n)
{
	const struct nf_region *a = key, *b = region_of(n);

	if (a->reserved_start != b->reserved_start)
		return a->reserved_start < b->reserved_start ? -1 : 1;
	return a->arrival < b->arrival ? -1 : a->arrival > b->arrival;
}

void nf_queue_init(struct nf_region_queue *q)
{
	nf_avl_init(&q->tree, update);
	q->arrivals = 0;
	q->nr = 0;
}

void nf_queue_add(struct nf_region_queue *q, struct nf_region *rg)
{
	rg->arrival = ++q->arrivals;
	struct nf_avl_node *there = nf_avl_add(&q->tree, rg, by_place, &rg->node);
	NF_ASSERT(!there);
	q->nr++;
}

void nf_queue_remove(struct nf_region_queue *q, struct nf_region *rg)
{
	nf_avl_erase(&q->tree, &rg->node);
	q->nr--;
}

void nf_queue_move(struct nf_region_queue *q, struct nf_region *rg, uint64_t start, uint64_t end)
{
	nf_avl_erase(&q->tree, &rg->node);
	rg->start = rg->reserved_start = start;
	rg->end = rg->reserved_end = end;
	struct nf_avl_node *there = nf_avl_add(&q->tree, rg, by_place, &rg->node);
	NF_ASSERT(!there);
}

static struct nf_region *find(const struct nf_avl_node *n, uint64_t start, uint64_t end,
			      bool (*match)(const struct nf_region *rg, const void *ctx),
			      const void *ctx)
{
	struct nf_region *rg = region_of(n);

	if (!rg || rg->greatest_end <= start)
		return NULL;
	struct nf_region *found = find(n->child[0], start, end, match, ctx);
	if (found || rg->reserved_start >= end)
		return found;
	if (rg->reserved_end > start && match(rg, ctx))
		return rg;
	return find(n->child[1], start, end, match, ctx);
}

struct nf_region *nf_queue_find(const struct nf_region_queue *q, uint64_t start, uint64_t end,
				bool (*match)(const struct nf_region *rg, const void *ctx),
				const void *ctx)
{
	return find(q->tree.root, start, end, match, ctx);
}

void nf_queue_check(const struct nf_region_queue *q)
{
	const struct nf_region *before = NULL;
	size_t nr = 0;

	for (struct nf_avl_node *n = nf_avl_first(&q->tree); n; n = nf_avl_next(n)) {
		struct nf_region *rg = region_of(n);
		NF_ASSERT(!before || by_place(before, n) < 0);
		NF_ASSERT(rg->greatest_end == greatest_end(n));
		NF_ASSERT(rg->arrival && rg->arrival <= q->arrivals);
		before = rg;
		nr++;
	}
	NF_ASSERT(nr == q->nr);
}
